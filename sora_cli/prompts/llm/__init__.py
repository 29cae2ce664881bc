"""Language models behind OpenAI's protocol: Ollama, llama.cpp, vLLM, here or elsewhere. Nothing here is reached unless
somebody gave a URL. No torch.
"""

from sora_cli.prompts.llm.answers import sentence
from sora_cli.prompts.llm.client import KEY, PATIENCE, TIMEOUT, Server

__all__ = ["KEY", "PATIENCE", "TIMEOUT", "Server", "sentence"]
