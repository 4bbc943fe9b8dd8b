import json
import os
from pathlib import Path

import ray

from langchain_model_gateway import GatewayRunnable, RedisState


@ray.remote
class Asker:
    def __init__(self, config, redis):
        self.gateway = GatewayRunnable.from_config(config, state=RedisState(redis))

    async def ask(self, prompts):
        config = {"max_concurrency": 20}
        replies = await self.gateway.abatch(prompts, config, return_exceptions=True)
        return [reply.text for reply in replies if not isinstance(reply, Exception)]


rows = [json.loads(line) for line in Path("prompts.jsonl").open()]
prompts = [row["prompt"] for row in rows]
config = str(Path("gateway.yaml").resolve())
askers = [Asker.remote(config, os.environ["REDIS_URL"]) for _ in range(2)]
halves = [asker.ask.remote(prompts[i::2]) for i, asker in enumerate(askers)]
print(sum(map(len, ray.get(halves))), "answers")
