"""Keys, passwords and other secrets inside text. Standard library only.

Two kinds of patterns. Tokens of well-known services have a form of their own (after the published
rules of GitHub's secret scanning, gitleaks and detect-secrets). Everything else is recognised by
what stands before it, as in "password: …", and must then look like a password itself: prose about
passwords, placeholders and variables of a program are far more frequent than real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# A pattern's secret is its group of this name, or the whole match where it has none.
GROUP = "secret"
KEY, PASSWORD = "[key]", "[password]"


@dataclass(frozen=True)
class SecretPattern:
    """`signs`: one of these stands in every text that matches, in small letters, so that most texts
    need no search.
    `replacement`: what stands in place of the secret once it is masked. `accepts`: whether what
    was matched is a secret and not a placeholder."""

    expression: re.Pattern[str]
    signs: tuple[str, ...]
    replacement: str
    accepts: Callable[[str], bool]


@dataclass(frozen=True)
class Secret:
    """Where a secret stands in a text, and what to put in its place."""

    start: int
    end: int
    replacement: str


PLACEHOLDER = re.compile(
    r"x{4,}|\.{3,}|\*{3,}|example|placeholder|your[-_ ]|changeme|dummy|redacted|insert|todo",
    re.IGNORECASE,
)
# What follows "password:" on forms, in documentation and in programs.
_WORDS = """
    required optional incorrect correct wrong invalid valid missing forgotten forgot expired changed
    string boolean integer number varchar true false none null empty blank hidden protected needed
    password passwd username login please minimum maximum must should enter reset secret unknown
    confirm confirmed repeat again strong weak accepted denied rejected undefined default disabled
    enabled encrypted hashed plain plaintext charfield textfield object field value input output
"""
ORDINARY_WORDS = frozenset(_WORDS.split())
TEMPLATE_START = ("$", "{", "<", "[", "(", "%", "/", "./", "~", "@", "#{", "-", "http:", "https:")


def _is_token(text: str) -> bool:
    """Whether a service could have issued this: letters and digits of some variety."""
    return len(set(text)) >= 6 and PLACEHOLDER.search(text) is None


def _is_long_token(text: str) -> bool:
    """A token known only by its name beside it: long enough, and of letters and digits both."""
    if text.startswith(TEMPLATE_START) or not _is_token(text):
        return False

    return any(map(str.isdigit, text)) and any(map(str.isalpha, text))


def _is_password(text: str) -> bool:
    """Whether somebody could have chosen this: letters together with digits or signs, or digits
    alone."""
    if text.startswith(TEMPLATE_START) or PLACEHOLDER.search(text):
        return False
    if len(set(text)) < 4:
        return False
    if text.isdigit():
        return len(text) >= 6

    has_letters = any(map(str.isalpha, text))
    has_digits = any(map(str.isdigit, text))
    has_signs = any(sign in text for sign in "!@#$%^&*?+")
    return has_letters and (has_digits or has_signs)


def _is_password_alone(text: str) -> bool:
    """As _is_password, of the only word on the rest of its line: there a plain word is one too."""
    if _is_password(text):
        return True
    if not text.isalpha() or len(set(text)) < 4:
        return False

    return text.lower() not in ORDINARY_WORDS and PLACEHOLDER.search(text) is None


def _is_in_address(text: str) -> bool:
    """A password inside an address: anything but a variable or a placeholder."""
    if text.startswith(TEMPLATE_START) or PLACEHOLDER.search(text):
        return False

    return text.lower() not in {"password", "pass", "pwd", "secret", "token"}


def _pattern(
    expression: str,
    signs: tuple[str, ...],
    replacement: str = KEY,
    accepts: Callable[[str], bool] = _is_token,
    flags: int = 0,
) -> SecretPattern:
    small = tuple(dict.fromkeys(sign.lower() for sign in signs))
    return SecretPattern(re.compile(expression, flags), small, replacement, accepts)


_ASSIGNED = r"""["'`*_]{0,3}\s{0,3}(?:=>|:=|[:=：]|\bis\b:?|\bist\b:?)\s{0,3}["'`*_]{0,3}"""
_VALUE = r"""(?P<secret>[^\s"'`<>,;|\\()\[\]{}]{4,128})"""
_LABEL = r"(?:password|passwort|passwd|passphrase|kennwort|contraseña|mot de passe|пароль|密码|パスワード)"
_PASSWORD_SIGNS = (
    "assw",
    "assph",
    "ennwort",
    "contraseñ",
    "de passe",
    "пароль",
    "密码",
    "パスワード",
)
_KEY_LABEL = (
    r"(?:api[-_ ]?key|apikey|access[-_ ]?key|secret[-_ ]?key|client[-_ ]?secret|private[-_ ]?key"
    r"|(?:access|auth|api|bearer|refresh|session)[-_ ]?token|account[-_ ]?key)"
)
_TOKEN_SIGNS = ("key", "ecret", "token")

PATTERNS = (
    # Private keys with all their lines, also where the last line is missing.
    _pattern(
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:[^-]{0,20000}-----END [A-Z ]{0,40}-----)?",
        ("-----BEGIN",),
        accepts=lambda text: True,
    ),
    # OpenAI, Anthropic and others that copy their form; Stripe; Hugging Face; GitHub; GitLab.
    _pattern(r"\bsk-[A-Za-z0-9_-]{20,}", ("sk-",)),
    _pattern(r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}", ("_",)),
    _pattern(r"\bhf_[A-Za-z0-9]{30,}", ("_",)),
    _pattern(
        r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{50,}",
        ("_",),
    ),
    _pattern(r"\bglpat-[A-Za-z0-9_-]{20,}", ("glpat-",)),
    # Package registries.
    _pattern(r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}", ("_", "pypi-")),
    # Amazon, Google, Slack, SendGrid, Telegram.
    _pattern(r"\bAKIA[0-9A-Z]{16}\b", ("AKIA",)),
    _pattern(r"\bAIza[A-Za-z0-9_-]{35}", ("AIza",)),
    _pattern(r"\bxox[abeprs]-[0-9A-Za-z-]{20,}", ("xox",)),
    _pattern(r"\bSG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}", ("SG.",)),
    _pattern(r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}\b", (":AA",)),
    # Signed tokens (JWT).
    _pattern(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", ("eyJ",)),
    # What a program sends along with a request.
    _pattern(
        r"\b(?:bearer|basic|authorization[\"']?\s?[:=]\s?[\"']?token)\s{1,3}(?P<secret>[A-Za-z0-9._~+/-]{16,}={0,2})",
        ("earer", "asic ", "uthoriz"),
        accepts=_is_long_token,
        flags=re.IGNORECASE,
    ),
    # scheme://user:password@host
    _pattern(
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>]{0,64}:(?P<secret>[^\s/@\"'<>]{3,128})@[A-Za-z0-9_.\[-]",
        ("://",),
        PASSWORD,
        _is_in_address,
        re.IGNORECASE,
    ),
    _pattern(
        rf"\b{_KEY_LABEL}{_ASSIGNED}(?P<secret>[A-Za-z0-9._~+/-]{{16,256}}={{0,2}})",
        _TOKEN_SIGNS,
        accepts=_is_long_token,
        flags=re.IGNORECASE,
    ),
    _pattern(
        rf"(?:\b|(?<=_)){_LABEL}{_ASSIGNED}{_VALUE}(?=[\"'`.]{{0,2}}\s*$)",
        _PASSWORD_SIGNS,
        PASSWORD,
        _is_password_alone,
        re.IGNORECASE | re.MULTILINE,
    ),
    _pattern(
        rf"(?:\b|(?<=_)){_LABEL}{_ASSIGNED}{_VALUE}",
        _PASSWORD_SIGNS,
        PASSWORD,
        _is_password,
        re.IGNORECASE,
    ),
    # Only as an assignment: "pwd" alone is a command.
    _pattern(
        rf"\bpwd[\"']?\s{{0,2}}[=:]\s{{0,2}}[\"']?{_VALUE}",
        ("pwd",),
        PASSWORD,
        _is_password,
        re.IGNORECASE,
    ),
)
# One of these stands in every text of ASCII that holds a secret, once it is in small letters. Every
# text that is learned from is asked for each of them, so they are few.
SIGNS = tuple(
    dict.fromkeys(sign for pattern in PATTERNS for sign in pattern.signs if sign.isascii())
)


def secrets_in(text: str) -> list[Secret]:
    """All secrets of a text in their order; none of them overlap."""
    in_order = sorted(_matches(text), key=lambda secret: (secret.start, -secret.end))
    secrets: list[Secret] = []

    for secret in in_order:
        if not secrets or secret.start >= secrets[-1].end:
            secrets.append(secret)

    return secrets


def has_secret(text: str) -> bool:
    return next(_matches(text), None) is not None


def secrets_replaced(text: str, replace: Callable[[Secret, str], str]) -> str:
    """The text with each secret as `replace(secret, its text)` gives it."""
    pieces = []
    end = 0
    for secret in secrets_in(text):
        pieces.append(text[end : secret.start])
        pieces.append(replace(secret, text[secret.start : secret.end]))
        end = secret.end

    pieces.append(text[end:])
    return "".join(pieces)


def _matches(text: str) -> Iterator[Secret]:
    lower = text.lower()
    for pattern in PATTERNS:
        if not any(sign in lower for sign in pattern.signs):
            continue

        group = GROUP if GROUP in pattern.expression.groupindex else 0
        for match in pattern.expression.finditer(text):
            start = match.start(group)
            # A full stop ends the sentence, not the secret.
            value = match.group(group).rstrip(".")

            if pattern.accepts(value):
                yield Secret(start, start + len(value), pattern.replacement)
