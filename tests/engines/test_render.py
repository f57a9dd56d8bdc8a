"""One renderer for generation and training: the same ids, one BOS, and no content that speaks as a control token."""

import pytest
from transformers import PreTrainedTokenizerFast

from cai.engines.render import Renderer
from cai.errors import InputError
from cai.types import Dialogue, Message
from tests.engines import tiny

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)

TOKENIZERS = {
    "llama3": lambda: tiny.tokenizer(
        LLAMA,
        specials=("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        others=("<|reserved_special_token_0|>",),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        adds_bos=True,
        lines_apart=True,
    ),
    "qwen": lambda: tiny.tokenizer(QWEN, others=("<think>", "</think>", "<tool_call>")),
    "gemma": lambda: tiny.tokenizer(
        GEMMA,
        specials=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        others=("<unused0>", "\n\n"),
        bos="<bos>",
        eos="<eos>",
        adds_bos=True,
    ),
    "mistral": lambda: tiny.tokenizer(
        MISTRAL, specials=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), bos="<s>", eos="</s>", adds_bos=True
    ),
    "smollm2": lambda: tiny.tokenizer(tiny.CHATML, others=("<repo_name>",), bos="<|im_start|>"),
    "transcript": lambda: tiny.tokenizer(None, specials=("<|endoftext|>",), eos="<|endoftext|>"),
}

DIALOGUES: list[Dialogue] = [
    (Message("user", "What do you think?"),),
    (Message("system", "Be  kind.\n"), Message("user", " naïve café — 日本語 🙂 ")),
    (Message("user", "yes"), Message("assistant", "no"), Message("user", "Here\n\n\nit\t is.")),
]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    return Renderer(tokenizer)


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_training_sees_what_generation_saw(renderer: Renderer, dialogue: Dialogue) -> None:
    answer = "I think it is a good thing.\n\nYes"
    ids, mask = renderer.example((*dialogue, Message("assistant", answer)))
    prompt = renderer.prompt_ids(dialogue)
    assert ids == prompt + renderer.answer_ids(answer, end_of_turn=True)
    assert mask == [0] * len(prompt) + [1] * (len(ids) - len(prompt))
    assert ids[-1] in renderer.end_ids
    assert renderer.answer_text(ids[len(prompt) :]) == answer


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_harmless_content_gets_the_ids_that_the_tokenizer_gives(
    renderer: Renderer, tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue
) -> None:
    if tokenizer.chat_template is None:
        pytest.skip("nothing to compare with: the tokenizer has no template")
    if dialogue[0].role == "system" and not renderer._has_system():
        folded = dialogue[0].content + "\n\n" + dialogue[1].content
        dialogue = (Message("user", folded), *dialogue[2:])
    expected = tokenizer.apply_chat_template(
        [message._asdict() for message in dialogue], add_generation_prompt=True, return_dict=False
    )
    assert renderer.prompt_ids(dialogue) == expected


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_an_example_is_what_the_template_makes_of_the_whole(
    renderer: Renderer, tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue
) -> None:
    if tokenizer.chat_template is None or (dialogue[0].role == "system" and not renderer._has_system()):
        pytest.skip("the template alone can't render this")
    whole = (*dialogue, Message("assistant", "Yes, it is."))
    expected = tokenizer.apply_chat_template([message._asdict() for message in whole], return_dict=False)
    ids, _ = renderer.example(whole)
    assert expected[: len(ids)] == ids
    assert len(expected) - len(ids) <= 1  # some templates end a turn with a line break that no model writes


def test_no_added_token_comes_out_of_any_content(renderer: Renderer, tokenizer: PreTrainedTokenizerFast) -> None:
    for added in tokenizer.added_tokens_encoder:
        if not added.strip():
            continue  # white space is no control
        for text in (added, f"a{added}b", f"{added} {added}", f" {added}\nassistant\n"):
            for role in ("system", "user"):
                dialogue = (Message("system", "Be."), Message("user", "b"))
                hostile = tuple(Message(m.role, text if m.role == role else m.content) for m in dialogue)
                controls = _controls(renderer, renderer.prompt_ids(dialogue))
                ids = renderer.prompt_ids(hostile)
                assert _controls(renderer, ids) == controls, (added, role)
                assert text.strip() in renderer.decode(ids)
            assert not _controls(renderer, renderer.answer_ids(text, end_of_turn=False))
            assert not _controls(renderer, renderer.prompt_ids(text + "x")[len(renderer._bos) :])
            assert _controls(renderer, renderer.prompt_ids((Message("user", "b"),), prefill=text)) == _controls(
                renderer, renderer.prompt_ids((Message("user", "b"),))
            )


def test_contents_that_look_like_placeholders_stay_as_they_are(renderer: Renderer) -> None:
    text = "\ue0001\ue001 and \ue0000\ue001"
    dialogue = (Message("user", "yes"), Message("assistant", "no"), Message("user", text))
    assert text in renderer.decode(renderer.prompt_ids(dialogue))


def test_exactly_one_bos_where_there_is_one(renderer: Renderer, tokenizer: PreTrainedTokenizerFast) -> None:
    if tokenizer.bos_token_id is None or tokenizer.bos_token == "<|im_start|>":
        assert renderer.prompt_ids("yes") == tokenizer.encode("yes")
        return
    prompts: list[Dialogue | str] = [*DIALOGUES, "yes", "<s><bos>"]
    for prompt in prompts:
        ids = renderer.prompt_ids(prompt)
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_that_adds_bos_gets_it_when_the_template_has_none() -> None:
    renderer = Renderer(tiny.tokenizer(QWEN, bos="<|endoftext|>", adds_bos=True))
    ids = renderer.prompt_ids(DIALOGUES[0])
    assert ids[0] == renderer.tokenizer.bos_token_id
    assert ids[1] != ids[0]


def test_the_system_message_is_folded_where_it_has_no_place() -> None:
    renderer = Renderer(TOKENIZERS["gemma"]())
    text = renderer.decode(renderer.prompt_ids((Message("system", "Be kind."), Message("user", "yes"))))
    assert text == "user\nBe kind.\n\nyes\nmodel\n"


def test_a_transcript_has_a_stop_string_and_its_answers_a_space() -> None:
    renderer = Renderer(TOKENIZERS["transcript"]())
    assert renderer.stop_strings == ("\n\nHuman:",)
    ids, _ = renderer.example((Message("user", "yes"), Message("assistant", "no")))
    assert renderer.decode(ids) == "\n\nHuman: yes\n\nAssistant: no"
    assert Renderer(TOKENIZERS["qwen"]()).stop_strings == ()


def test_the_shared_part_is_the_same_whatever_comes_after(renderer: Renderer) -> None:
    system = Message("system", "You are a helpful assistant. Please rewrite the answer.")
    prompts: list[Dialogue] = [(system, Message("user", text)) for text in ("yes", " no", "\n\nx", "日本語", "<s>")]
    lengths = {renderer.shared_length(prompt, 1) for prompt in prompts}
    assert len(lengths) == 1
    length = lengths.pop()
    assert length > 3
    assert len({tuple(renderer.prompt_ids(prompt)[:length]) for prompt in prompts}) == 1
    assert renderer.shared_length(prompts[0], 0) == 0


def test_the_shared_part_of_a_text_is_the_same_whatever_comes_after(renderer: Renderer) -> None:
    shared = "You are a helpful assistant. Please rewrite the answer"
    texts = [shared + rest for rest in ("s", " no", "\n\nx", "日本語")]
    lengths = {renderer.shared_length(text, len(shared)) for text in texts}
    assert len(lengths) == 1
    length = lengths.pop()
    assert length > 5
    assert len({tuple(renderer.prompt_ids(text)[:length]) for text in texts}) == 1


def test_what_cannot_be_rendered_is_said(renderer: Renderer) -> None:
    with pytest.raises(InputError, match="must end with the turn of a person"):
        renderer.prompt_ids((Message("user", "a"), Message("assistant", "b")))
    with pytest.raises(InputError, match="must end with a turn of the assistant"):
        renderer.example((Message("user", "a"),))


def test_a_template_that_refuses_roles_is_an_input_error() -> None:
    renderer = Renderer(TOKENIZERS["gemma"]())
    with pytest.raises(InputError, match="Roles must alternate"):
        renderer.prompt_ids((Message("user", "a"), Message("user", "b")))


def _controls(renderer: Renderer, ids: list[int]) -> list[int]:
    return [id_ for id_ in ids if id_ in renderer.control_ids]
