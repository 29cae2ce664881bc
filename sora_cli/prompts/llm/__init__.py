"""Language models behind OpenAI's protocol: Ollama, llama.cpp, vLLM, here or elsewhere. No torch.

    client     a server: what it is asked, for how long, with whose key
    answers    the sentence in an answer, where there is one
    wording    what models say beside an answer, and instead of one
    refusals   how they speak of themselves, in any language

Nothing here is reached unless somebody gave a URL.
"""

from sora_cli.prompts.llm.answers import sentence
from sora_cli.prompts.llm.client import KEY, PATIENCE, TIMEOUT, Server

__all__ = ["KEY", "PATIENCE", "TIMEOUT", "Server", "sentence"]
