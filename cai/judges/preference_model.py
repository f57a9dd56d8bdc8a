"""The preference model in use: a score per answer, and a judge made of it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from cai.constitution import Principle
from cai.engines.embedded import model_digest, resolve_model
from cai.engines.loading import Dtype, Quantization, pick_device, pick_dtype, quantized, read_tokenizer, readable, whole
from cai.engines.render import Renderer
from cai.errors import InputError, Problem
from cai.judges.base import Comparison, Verdict
from cai.judges.conditioned import kept_ids, told, wording_in, wording_of
from cai.judges.fit import verdicts
from cai.judges.heads import cut_to, heads_of, is_classifier
from cai.judges.pairwise import verdict_of
from cai.processes import loads_whole
from cai.strict_yaml import suggestion
from cai.types import Dialogue

WINDOW = 32
"""Comparisons read together."""


class Mark(NamedTuple):
    """What a saved preference model says of itself, which is read without its weights."""

    heads: tuple[str, ...]
    """The names of its scores; none for a single one without a name."""
    wording: str | None
    """How it is told a principle; None for one that reads none."""


def check_asked(
    folder: str, *, head: str | None = None, principle: str | None = None, key: str = "head", adapter: bool = False
) -> Mark:
    """Return a preference model's mark; `key` is the setting that names a head, `adapter` says that it is one alone.

    Raises InputError for a model of another kind, for a head that it does not have or, where it has several, none, and
    for a principle that it would not read. That it reads one and is told none is the caller's to refuse.
    """
    path = folder if adapter else resolve_model(folder)
    with readable(folder):
        config = AutoConfig.from_pretrained(path)
    if not is_classifier(config) or (config.num_labels != 1 and not heads_of(config)):
        raise InputError(Problem(folder, 0, 0, "not a preference model", "name the model folder of a reward stage"))
    mark = Mark(heads_of(config), wording_in(get_tokenizer_config(path)))
    problems = []
    if head is None and len(mark.heads) > 1:
        fix = f"say which with '{key}', as in {key}={mark.heads[0]!r}"
        problems.append(Problem(folder, 0, 0, f"this preference model has the heads {', '.join(mark.heads)}", fix))
    elif head is not None and not mark.heads:
        problems.append(Problem(folder, 0, 0, f"no head {head!r}: its one score has no name", f"leave out '{key}'"))
    elif head is not None and head not in mark.heads:
        problems.append(Problem(folder, 0, 0, f"no head {head!r}", suggestion(head, mark.heads)))
    if principle is not None and mark.wording is None:
        problems.append(Problem(folder, 0, 0, "this preference model reads no principle", "leave out 'principle'"))
    if problems:
        raise InputError(problems)
    return mark


class PreferenceModel:
    """Scores answers to dialogues. Higher is better; only differences between answers to one dialogue count."""

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        *,
        revision: str,
        max_length: int = 2048,
        batch_tokens: int = 4096,
        principle: str | None = None,
    ) -> None:
        """Use a sequence classifier of one output; longer dialogues lose their beginning.

        `batch_tokens` bounds the positions of a batch, padding included; a longer row is read alone. `principle` is the
        text that a model which reads one judges by where none is given with the answers.
        """
        self.model, self.renderer, self.revision = model.eval(), renderer, revision
        self._max_length, self._batch_tokens, self._principle = max_length, batch_tokens, principle
        self._whole: tuple[Any, str] = (model, revision)
        self.wording = wording_of(renderer.tokenizer)
        """How the model is told a principle; None for one that reads none."""
        self.read: Callable[[Any, Sequence[Sequence[int]], int], Tensor] = score_batch
        """Returns the scores of rows of ids, [B], given the model, the rows and the padding id."""

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        head: str | None = None,
        principle: str | None = None,
        dtype: Dtype = "float32",
        device: str = "auto",
        quantization: Quantization = "none",
    ) -> Self:
        """Load what `cai.train.reward` saved.

        `head` is the score to read, of a model with several. `quantization` holds the linear layers in 8 or 4 bits by
        bitsandbytes; the score head is kept whole. Raises InputError as `check_asked` does, before weights are loaded.
        """
        check_asked(folder, head=head, principle=principle)
        path = resolve_model(folder)
        tokenizer = read_tokenizer(folder)
        place = pick_device(device)
        kind = pick_dtype(dtype, place)
        with loads_whole(), readable(folder):
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=kind, output_loading_info=True, **quantized(quantization, kind, place)
            )
        model = whole(folder, loaded)
        revision = model_digest(path) + ("" if quantization == "none" else f"+{quantization}")
        placed = model.to(place) if quantization == "none" else model
        found = cls(placed, Renderer(tokenizer), revision=revision, principle=principle)
        return found if head is None else found.at(head, principle=principle)

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the scores that the model was saved with; `at` gives each."""
        return heads_of(self._whole[0].config)

    def at(self, head: str | None = None, *, principle: str | None = None) -> Self:
        """Return this model read at another head (None: at the same), by a principle; the trunk is in memory once.

        Raises ValueError for a head that it does not have.
        """
        other = copy.copy(self)
        other._principle = principle
        if head is not None:
            if head not in self.heads:
                raise ValueError(f"no head {head!r}; {suggestion(head, self.heads)}")
            model, revision = self._whole
            other.model, other.revision = cut_to(model, head), f"{revision}#{head}"
        return other

    def score(self, answers: Sequence[tuple[Dialogue, str]], *, principles: Sequence[str] | None = None) -> list[float]:
        """Return one score per (dialogue, answer), in their order.

        `principles` has a text for each answer, for a model that was trained to be told (`principle_conditioned`); ""
        tells it none, as rows without one were trained on. Raises InputError where such a model is told nothing, and
        where another is told something; ValueError for too few texts or too many.
        """
        texts = self._texts(principles, len(answers))
        return self.score_ids([self._ids(*answer, text) for answer, text in zip(answers, texts, strict=True)])

    def _texts(self, principles: Sequence[str] | None, count: int) -> Sequence[str]:
        if principles is None and self._principle is not None:
            principles = [self._principle] * count
        if self.wording is None and principles is not None:
            raise InputError(Problem("principles", 0, 0, "this preference model reads no principle", "leave it out"))
        if self.wording is not None and principles is None:
            fix = "give principles=[...], a text for each answer, or load it with principle=..."
            raise InputError(Problem("principles", 0, 0, "this preference model judges by a principle", fix))
        if principles is not None and len(principles) != count:
            raise ValueError(f"{len(principles)} principles for {count} answers; give one for each")
        return [""] * count if principles is None else principles

    @torch.no_grad()
    def score_ids(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Return one score per row of ids, read at its end; rows of like length are read together.

        Raises ValueError for an empty row.
        """
        if not all(rows):
            raise ValueError("a row of no ids has no score")
        scores = [0.0] * len(rows)
        for batch in _by_length(rows, self._batch_tokens):
            found = self.read(self.model, [rows[index] for index in batch], self.renderer.pad_id)
            for index, value in zip(batch, found.tolist(), strict=True):
                scores[index] = value
        return scores

    def _ids(self, dialogue: Dialogue, answer: str, principle: str = "") -> list[int]:
        prompt = told(dialogue, principle, self.wording) if self.wording else dialogue
        ids = self.renderer.prompt_ids(prompt) + self.renderer.answer_ids(answer, end_of_turn=True)
        kept = kept_ids(self.renderer, prompt, principle)
        return ids[:kept] + ids[kept:][-max(1, self._max_length - kept) :]


def score_batch(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Return the scores of rows of ids, [B], read at each row's last token."""
    longest = max(map(len, rows))
    device = next(model.parameters()).device
    input_ids = torch.full((len(rows), longest), pad_id, device=device)
    mask = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row, device=device)
        mask[index, : len(row)] = 1
    return scores_at_end(model, input_ids, mask)


def scores_at_end(model: Any, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
    """Return the score at the last real token of right-padded rows, [B], in float32.

    The place is read off the mask. `transformers` itself finds it by the padding id, which is wrong for an answer that
    ends with that id, so the model's own pooled logits are not used.
    """
    hidden = model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, output_hidden_states=True).hidden_states[
        -1
    ]
    last_B = attention_mask_BL.sum(dim=1) - 1
    pooled_BH = hidden[torch.arange(len(last_B), device=hidden.device), last_B]
    scores_B: Tensor = head_of(model)(pooled_BH).squeeze(-1).float()
    return scores_B


def head_of(model: Any) -> torch.nn.Module:
    """Return the linear layer that makes the score, under whatever wraps the model."""
    inner = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    head: torch.nn.Module = inner.score
    return head


def _by_length(ids: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        if batch and (len(batch) + 1) * len(ids[index]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class Scorer(Protocol):
    """A preference model, or several as one."""

    revision: str

    def score(self, answers: Sequence[tuple[Dialogue, str]], *, principles: Sequence[str] | None = None) -> list[float]:
        """Return one score per (dialogue, answer), in their order; by a principle each where the model reads one."""
        ...


class PreferenceModelJudge:
    """Compare answers by the difference of their scores: the probability that the preference model was trained on."""

    name = "preference_model"

    def __init__(self, preference_model: Scorer) -> None:
        """Judge with a preference model; one that reads principles is told those of the comparisons."""
        self._model = preference_model
        self.by_principle = getattr(preference_model, "wording", None) is not None
        self.model = preference_model.revision

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        return verdicts(comparisons, self._compare, window=WINDOW)

    def scores(self, answers: Sequence[tuple[Dialogue, str, Principle]]) -> list[float]:
        """Return a score per answer; only differences mean something, to one dialogue and by one principle."""
        said = [(prompt, text) for prompt, text, _ in answers]
        told_by = [principle.text for *_, principle in answers] if self.by_principle else None
        return self._model.score(said, principles=told_by)

    def _compare(self, fit: Sequence[Comparison]) -> Iterator[Verdict]:
        answers = [(item.prompt, text) for item in fit for text in (item.response_a, item.response_b)]
        told_by = [item.principle.text for item in fit for _ in range(2)] if self.by_principle else None
        scores = self._model.score(answers, principles=told_by)
        for item, a, b in zip(fit, scores[::2], scores[1::2], strict=True):
            yield verdict_of(item.id, a - b)
