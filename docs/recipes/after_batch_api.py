import json
from pathlib import Path

from langchain_model_gateway import GatewayRunnable


def read(name):
    path = Path(name)
    return [json.loads(line) for line in path.open()] if path.exists() else []


good = [
    row for row in read("batch_output.jsonl") if (row["response"] or {}).get("status_code") == 200
]
done = {row["custom_id"] for row in good + read("answers.jsonl")}
left = [row for row in read("batch_input.jsonl") if row["custom_id"] not in done]

gateway = GatewayRunnable.from_config("gateway.yaml")
conversations = [row["body"]["messages"] for row in left]
replies = gateway.batch_as_completed(conversations, {"max_concurrency": 50}, return_exceptions=True)
with Path("answers.jsonl").open("a", buffering=1) as answers:
    for i, reply in replies:
        if not isinstance(reply, Exception):
            line = {"custom_id": left[i]["custom_id"], "answer": reply.text}
            answers.write(json.dumps(line) + "\n")
