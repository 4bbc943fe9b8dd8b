import json
from pathlib import Path

from distributed import Client

from langchain_model_gateway import GatewayRunnable


def answer(name, rows):
    target = Path("answers", name)
    if target.exists():
        return
    gateway = GatewayRunnable.from_config("gateway.yaml")
    replies = gateway.batch([row["prompt"] for row in rows], {"max_concurrency": 25})
    lines = [{"id": row["id"], "answer": reply.text} for row, reply in zip(rows, replies)]
    draft = target.with_suffix(".draft")
    draft.write_text("".join(json.dumps(line) + "\n" for line in lines))
    draft.rename(target)  # whole, or not at all


if __name__ == "__main__":
    Path("answers").mkdir(exist_ok=True)
    rows = [json.loads(line) for line in Path("prompts.jsonl").open()]
    parts = {f"{i:09}.jsonl": rows[i : i + 100] for i in range(0, len(rows), 100)}
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        client.gather(client.map(answer, list(parts), list(parts.values())))
