import json
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from langchain_model_gateway import GatewayRunnable

gateway = GatewayRunnable.from_config("gateway.yaml")
DBOS(config={"name": "answers", "application_version": "1"})  # kept in answers.sqlite


@DBOS.workflow()
def answer(prompt):
    return gateway.invoke(prompt).text


if __name__ == "__main__":
    DBOS.launch()
    limit = {"limit": 100, "period": 1}
    DBOS.register_queue("prompts", limiter=limit, worker_concurrency=50, polling_interval_sec=0.1)
    handles = {}
    for row in map(json.loads, Path("prompts.jsonl").open()):
        with SetWorkflowID(f"row-{row['id']}"):  # a row that is known is not asked again
            handles[row["id"]] = DBOS.enqueue_workflow("prompts", answer, row["prompt"])
    with Path("answers.jsonl").open("w") as answers:
        for number, handle in handles.items():
            answers.write(json.dumps({"id": number, "answer": handle.get_result()}) + "\n")
    DBOS.destroy()
