"""What tests of several packages share."""

import gc
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama of random weights and a ChatML tokenizer whose padding is not its end of turn."""
    from tests.engines import tiny

    folder = tmp_path_factory.mktemp("tiny-model")
    tiny.llama().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the collector pass over what imports have made: it went through all of torch again and again."""
    gc.collect()
    gc.freeze()
