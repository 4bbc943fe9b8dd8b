from pathlib import Path

import ray
from ray.data.checkpoint import CheckpointConfig

from langchain_model_gateway import GatewayRunnable


class Answer:
    def __init__(self, config):
        self.gateway = GatewayRunnable.from_config(config)

    async def __call__(self, rows):
        replies = await self.gateway.abatch(list(rows["prompt"]), return_exceptions=True)
        failed = [isinstance(reply, Exception) for reply in replies]
        texts = [str(reply) if bad else reply.text for reply, bad in zip(replies, failed)]
        return {"id": rows["id"], "answer": texts, "failed": failed}


ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
    "id", str(Path("checkpoint").resolve()), delete_checkpoint_on_success=False
)
config = str(Path("gateway.yaml").resolve())
prompts = ray.data.read_json(str(Path("prompts.jsonl").resolve()))
answers = prompts.repartition(target_num_rows_per_block=100).map_batches(
    Answer,
    fn_constructor_args=[config],
    batch_size=100,
    num_cpus=0,  # it waits most of the time: leave the processors to reading and writing
    compute=ray.data.ActorPoolStrategy(size=2),
)
answers.write_parquet(str(Path("answers").resolve()))
