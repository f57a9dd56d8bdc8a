"""What a scripted engine answers in the tests of generation; imports nothing heavy, for workers that are killed."""

from cai.engines.base import GenerateRequest
from cai.storage import seed_from


def reply(request: GenerateRequest, seed: int) -> str:
    """Answer with words that only the request and the seed decide."""
    return f"Words number {seed_from(seed, str(request.prompt)) % 100_000} and some more of them."
