import json
from pathlib import Path

from pyspark import TaskContext
from pyspark.sql import SparkSession

from langchain_model_gateway import GatewayRunnable

PARTS = 8


def answer(part):
    target = Path("answers", f"{TaskContext.get().partitionId():05}.jsonl")
    if target.exists():
        return
    rows, gateway = [*part], GatewayRunnable.from_config("gateway.yaml")
    replies = gateway.batch([row["prompt"] for row in rows], {"max_concurrency": 25})
    lines = [{"id": row["id"], "answer": reply.text} for row, reply in zip(rows, replies)]
    draft = target.with_suffix(".draft")
    draft.write_text("".join(json.dumps(line) + "\n" for line in lines))
    draft.rename(target)  # whole, or not at all


if __name__ == "__main__":
    Path("answers").mkdir(exist_ok=True)
    spark = SparkSession.builder.master("local[2]").getOrCreate()
    # By the hash of the id: each row is always in the part of the same number.
    spark.read.json("prompts.jsonl").repartition(PARTS, "id").foreachPartition(answer)
    spark.stop()
