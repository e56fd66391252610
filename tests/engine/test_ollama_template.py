"""A chat template says the same in Ollama's language, or is refused with its reason."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.chat.render import PLAIN_TEMPLATE
from engine.exporting.go_template import GoTemplateProblem, parse, render, text_write
from engine.exporting.modelfile import MODELFILE, Modelfile, is_writable, modelfile_read
from engine.exporting.ollama_template import difference, translate
from engine.loading.architecture import Refused
from tests.engine.chat_templates import NAMES, says, template_of, tokenizer_for, user
from tests.tiny import CHAT_TEMPLATE

TEMPLATES = {name: template_of(name) for name in NAMES} | {
    "ChatML": CHAT_TEMPLATE,
    "ours": PLAIN_TEMPLATE,
}
SYSTEM = {"role": "system", "content": "Be brief."}
# None of those that the translation itself is held against.
CONVERSATIONS = {
    "one question": [user("Who?")],
    "four turns more": [user("A?"), says("B."), user("C?"), says("D."), user("E?")],
    "a system prompt": [SYSTEM, user("Who?"), says("I."), user("And {{ .System }}?")],
}


def asked(tokenizer, messages) -> str:
    """What the chat template writes; with a system prompt that it refuses or passes over inside the
    first question, as trains put it there."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:
        text = ""
    if messages[0]["role"] != "system" or messages[0]["content"] in text:
        return text
    system, question, *rest = messages
    return asked(tokenizer, [user(f"{system['content']}\n\n{question['content']}"), *rest])


def written(tokenizer, messages, **options) -> list[str]:
    """What Ollama makes of it, where llama.cpp adds no beginning token, and where it adds one that
    the chat template writes too."""
    texts = [render(translate(tokenizer, **options).template, messages)]
    bos = tokenizer.bos_token
    if asked(tokenizer, [user("Who?")]).startswith(bos):
        template = translate(tokenizer, bos=bos, **options).template
        texts.append(bos + render(template, messages))
    return texts


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_it_writes_what_the_chat_template_writes(name, conversation):
    tokenizer = tokenizer_for(TEMPLATES[name])
    messages = CONVERSATIONS[conversation]
    assert {*written(tokenizer, messages)} == {asked(tokenizer, messages)}


@pytest.mark.parametrize("name", ["ChatML", "gemma", "qwen2_5", "llama3"])
def test_a_system_prompt_of_the_train_can_stand_in_the_template(name):
    """For one that a Modelfile cannot hold."""
    tokenizer = tokenizer_for(TEMPLATES[name])
    prompt = 'No\u00a0"""\nbreaks {{ here }}'
    assert not is_writable(prompt)
    assert is_writable(translate(tokenizer, default_system=prompt).template)
    with_prompt = [{"role": "system", "content": prompt}, user("Who?")]
    other = [SYSTEM, user("Who?")]
    for messages, wanted in ((with_prompt[1:], with_prompt), (other, other)):
        texts = written(tokenizer, messages, default_system=prompt)
        assert {*texts} == {asked(tokenizer, wanted)}


# What Ollama cannot say, and a word of the reason.
REFUSED = {
    "the system prompt in the last question": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST]"
        "{% if loop.last and messages[0].role == 'system' %} {{ messages[0].content }}{% endif %}"
        " {{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}"
        "{% endfor %}",
        "several turns with a system prompt",
    ),
    "numbered turns": (
        "{% for m in messages %}{{ loop.index }}. {{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "writes a question otherwise|several turns",
    ),
    "turns twice": (
        "{% for m in messages %}{{ m.content }} {{ m.content }}\n{% endfor %}",
        "moves, repeats or leaves out",
    ),
    "the last turn alone": ("{{ messages[-1].content }}", "moves, repeats or leaves out"),
    "capital letters": (
        "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}",
        "moves, repeats or leaves out",
    ),
    "other words for short questions": (
        "{% for m in messages %}{% if m.content | length > 9 %}long{% endif %}<{{ m.role }}>"
        "{{ m.content }}\n{% endfor %}",
        "otherwise than turn by turn",
    ),
    "one that refuses everything": ("{{ raise_exception('no') }}", "cannot be translated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_turn_by_turn_is_refused(name):
    template, words = REFUSED[name]
    with pytest.raises(Refused, match=words):
        translate(tokenizer_for(template))


def test_what_ollama_cannot_do_is_told():
    assert "Tools are not offered" in translate(tokenizer_for(TEMPLATES["qwen3"])).remark
    assert "Thinking" in translate(tokenizer_for(TEMPLATES["qwen3"])).remark
    assert "White space" in translate(tokenizer_for(TEMPLATES["llama3"])).remark
    assert "the day" in translate(tokenizer_for(TEMPLATES["llama3_2"])).remark
    assert translate(tokenizer_for(CHAT_TEMPLATE)).remark == ""


def test_a_model_without_a_chat_template_continues_texts():
    tokenizer = copy.copy(tokenizer_for(CHAT_TEMPLATE))
    tokenizer.chat_template = None
    assert translate(tokenizer).template == "{{ .Prompt }}"


BROKEN = {
    "another end": ("<|im_end|>", "<|endoftext|>"),
    "no answer is asked for": ("{{ end }}{{ end }}<|im_start|>assistant\n", "{{ end }}{{ end }}"),
    "no system prompt": ("{{ .System }}", ""),
    "a line too many": ("user\n", "user\n\n"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_template_is_found(broken):
    tokenizer = tokenizer_for(CHAT_TEMPLATE)
    template = translate(tokenizer).template
    before, after = BROKEN[broken]
    assert before in template
    assert difference(tokenizer, template, bos="") == ""
    assert "otherwise" in difference(tokenizer, template.replace(before, after), bos="")


def test_a_beginning_token_too_many_is_found():
    tokenizer = tokenizer_for(CHAT_TEMPLATE)
    assert "otherwise" in difference(tokenizer, translate(tokenizer).template, bos="<s>")


def test_ollama_joins_turns_of_one_role():
    template = '{{ range .Messages }}{{ if eq .Role "user" }}[{{ .Content }}]{{ end }}{{ end }}'
    assert render(template, [user("a"), user("b"), says("c"), user("d")]) == "[a\n\nb][d]"


@given(st.text())
def test_any_text_can_be_written(text):
    template = text_write(text)
    assert render(template, []) == text
    assert is_writable(template)


@given(template=st.text(), system=st.text(), stop=st.sampled_from(["<|im_end|>", '"', "a b"]))
def test_a_modelfile_is_read_as_it_was_written(tmp_path_factory, template, system, stop):
    file = tmp_path_factory.getbasetemp() / MODELFILE
    modelfile = Modelfile(
        model="tiny-Q8_0.gguf",
        template=text_write(template),
        system=system if is_writable(system) else "",
        stops=(stop, "</s>"),
        parameters={"temperature": 0.7, "top_k": 40.0},
    )
    file.write_text(modelfile.text(), encoding="utf-8")
    assert modelfile_read(file) == modelfile


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Prompt }}",
        "{{ .Content }}",
        "{{ if .System }}",
        "{{ end }}",
        "{{- .System }}",
        "{{ range .Messages }}{{ .System }}{{ end }}",
        "{{ if .Tools }}{{ end }}",
        "a {{ b",
        "{{ range .Messages }}{{ if eq .Role 'user' }}{{ end }}{{ end }}",
    ],
)
def test_what_we_do_not_write_is_not_read(template):
    with pytest.raises(GoTemplateProblem):
        parse(template)
