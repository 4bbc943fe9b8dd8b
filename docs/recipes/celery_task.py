from celery import Celery

from langchain_model_gateway import GatewayRunnable

gateway = GatewayRunnable.from_config("gateway.yaml")
app = Celery("answers")
app.config_from_object("celeryconfig")


@app.task(acks_late=True)
def answer(prompt):
    return gateway.invoke(prompt).text
