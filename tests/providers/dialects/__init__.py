"""The table of dialects: the first part of a request's path names the one it is in."""

from .anthropic import Anthropic
from .base import Answer, Dialect, Stream
from .bedrock import Bedrock
from .cohere import Cohere
from .gemini import Gemini
from .mistral import Mistral
from .ollama import Ollama
from .openai import Compatible, Groq, OpenAI, OpenRouter
from .responses import Responses

__all__ = ["DIALECTS", "Answer", "Dialect", "Stream"]

_KINDS = (
    *(OpenAI, Responses, Anthropic, Gemini, Mistral, Ollama, Bedrock, Cohere),
    *(Compatible, Groq, OpenRouter),
)
DIALECTS: dict[str, Dialect] = {kind.name: kind() for kind in _KINDS}
