"""What a model writes is a stranger's text: in a real browser nothing of it is ever an element that
does something."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from playground.models import Answer, Conversation, Turn

pytestmark = pytest.mark.long

HOSTILE = """
<script>window.hit = 1</script>
<img src=x onerror="window.hit = 2">
<svg onload="window.hit = 3"><a xlink:href="javascript:window.hit=4">x</a></svg>
<iframe srcdoc="<script>parent.hit = 5</script>"></iframe>
<form action="/account/"><input name="password"><button>Sign in</button></form>
<style>body { display: none }</style>
<a href="/logout/" onclick="window.hit = 6">inline</a>

[script](javascript:window.hit=7) [encoded](JaVa&#83;cript:window.hit=8)
[data](data:text/html,<script>parent.hit=9</script>) [our own page](/account/)
![picture](https://tracker.example.org/x.png) ![inline](data:image/svg+xml,<svg/onload=hit=10>)
[fine](https://example.org/ "a title")

<https://example.org/<script>>

```html
<script>window.hit = 11</script>
```

```"><img src=x onerror=hit=12>
text
```

| a | <img src=x onerror="window.hit = 13"> |
|---|---|
| `<b onmouseover=hit=14>` | <math><mtext><table><mglyph><style><img src=x onerror=hit=15> |

# Heading <b onfocus="hit=16" autofocus tabindex=1>x</b>
- [ ] <details open ontoggle="window.hit = 17">task</details>
"""


def test_hostile_markdown_is_text(at_home, home):
    owner = User.objects.get(username="alice")
    target = f"model-{home['model']}"
    pane = {"id": 0, "target": target, "title": "Tiny", "base_title": "", "sampling": {}}
    conversation = Conversation.objects.create(owner=owner, name="Hostile", panes=[pane])
    turn = Turn.objects.create(conversation=conversation, position=1, text=HOSTILE)
    Answer.objects.create(
        turn=turn, place=0, pane=0, target=target, title=HOSTILE[:200], state="done", text=HOSTILE
    )

    with at_home() as context:
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.goto(f"/playground/{conversation.pk}/")
        answer = page.locator(".md")
        answer.get_by_text("Heading").wait_for()
        page.wait_for_timeout(300)

        assert page.evaluate("window.hit") is None
        elements = page.evaluate(
            "() => [...document.querySelectorAll('.answer-cell *')].map((e) => e.localName)"
        )
        active = {"script", "img", "iframe", "form", "input", "style", "object", "math", "video"}
        assert active & set(elements) == set()
        attributes = page.evaluate(
            "() => [...document.querySelectorAll('.md *')].flatMap((e) => e.getAttributeNames())"
        )
        # Copy buttons are ours.
        ours = {"type", "aria-label", "aria-hidden", "data-copy", "tabindex"}
        assert set(attributes) <= {"href", "title", "class", "target", "rel", "align", *ours}
        links = page.evaluate(
            "() => [...document.querySelectorAll('.md a')].map((a) => a.getAttribute('href'))"
        )
        assert "https://example.org/" in links
        assert all(link is None or link.startswith("https://") for link in links), links
        assert not [url for url in asked if "tracker" in url]
        # And all of it can be read.
        assert "window.hit = 1</script>" in answer.inner_text()
