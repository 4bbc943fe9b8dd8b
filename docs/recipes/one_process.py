import json
from pathlib import Path

from rich.progress import track

from langchain_model_gateway import GatewayRunnable

gateway = GatewayRunnable.from_config("gateway.yaml")
rows = [json.loads(line) for line in Path("prompts.jsonl").open()]
with Path("answers.jsonl").open("a+", buffering=1) as answers:
    answers.seek(0)
    done = {json.loads(line)["id"] for line in answers}
    left = [row for row in rows if row["id"] not in done]
    prompts = [row["prompt"] for row in left]
    config = {"max_concurrency": 50}
    replies = gateway.batch_as_completed(prompts, config, return_exceptions=True)
    for i, reply in track(replies, total=len(left)):
        if not isinstance(reply, Exception):  # a failed row is asked at the next start
            answers.write(json.dumps({"id": left[i]["id"], "answer": reply.text}) + "\n")
