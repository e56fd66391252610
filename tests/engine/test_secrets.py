"""Keys and passwords are found where they are real, and not where people merely write about
them."""

import pytest

from engine.doctor.row_repairs import without_secrets
from engine.doctor.secret_patterns import SIGNS, has_secret, secrets_in, secrets_replaced
from engine.rows.examples import to_example

# Made up, in pieces: no tool that looks for leaked keys shall find one in this file.
OPENAI = "sk-" + "a1B2" * 8
GITHUB = "ghp_" + "a1B2c3" * 6
AMAZON = "AKIA" + "IOSFODNN7ABCDEFG"
TOKEN = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3" + ".abcDEF123456789"
PRIVATE = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEabc\n-----END RSA " + "PRIVATE KEY-----"

# (text, the secret in it)
REAL = [
    (f"My key is {OPENAI}.", OPENAI),
    (f"export GITHUB={GITHUB}", GITHUB),
    (f"id {AMAZON}", AMAZON),
    (f"Cookie: {TOKEN}", TOKEN),
    (f"Here it is:\n{PRIVATE}\nThanks", PRIVATE),
    ("password: hunter2", "hunter2"),
    ("Password: Tr0ub4dor&3", "Tr0ub4dor&3"),
    ("PASSWORD = Tr0ub4dor&3", "Tr0ub4dor&3"),
    ("my password is hunter2, can you look?", "hunter2"),
    ("Your new password is: Blue-42-Sky. Change it.", "Blue-42-Sky"),
    ("User: bob\nPassword: swordfish\nThanks", "swordfish"),
    ('{"user": "bob", "password": "qwe123rty"}', "qwe123rty"),
    ("DB_PASSWORD=s3cr3tPass!", "s3cr3tPass!"),
    ("Passwort: Sommer2024!", "Sommer2024!"),
    ("密码：abc12345", "abc12345"),
    ("pwd=abc123!", "abc123!"),
    ("postgres://app:s3cret@db.internal:5432/shop", "s3cret"),
    ("redis://:p4ssw0rd@localhost/0", "p4ssw0rd"),
    ("https://bob:letmein@example.org/feed", "letmein"),
    ("Authorization: Bearer abcdef1234567890abcd", "abcdef1234567890abcd"),
    ("api_key = 'd41d8cd98f00b204e9800998ecf8427e'", "d41d8cd98f00b204e9800998ecf8427e"),
    ("client_secret: 8Q~abc123def456ghi789", "8Q~abc123def456ghi789"),
    ("X-Api-Key: 7f3a9c1e5b2d4f6a8c0e", "7f3a9c1e5b2d4f6a8c0e"),
    ("access token is 9aB8cD7eF6gH5iJ4kL3m", "9aB8cD7eF6gH5iJ4kL3m"),
]
HARMLESS = [
    "password: required",
    "Password: ********",
    "Password: xxxxxxxx",
    "password: ${DB_PASSWORD}",
    "password: {{ vault_password1 }}",
    "password: <your password>",
    "password: your_password_here",
    "password = os.environ['PASSWORD']",
    "password = getpass.getpass()",
    "def sign_in(user: str, password: str = 'x'):",
    "password=None, timeout=30",
    "self.password = password",
    "Forgot your password? Click here.",
    "The password is incorrect.",
    "The password is case sensitive.",
    "My password is not accepted, what now?",
    "A password must contain 8 characters and 1 digit.",
    "Password: 8 characters or more",
    "Secret: nobody knows where the treasure lies.",
    "The key to success is patience, and 20 hours of practice.",
    "public key: see below",
    "OPENAI_API_KEY=YOUR_API_KEY_GOES_HERE_1",
    "sk-" + "x" * 24,
    "hf_" + "x" * 34,
    "tokens: 1,024 of 2,048",
    "a bearer of bad news 1234567890",
    "basic understanding of 12 different things",
    "pwd: /home/user1",
    "https://example.org/a:b@c",
    "git@github.com:org/repo.git",
    "postgres://user:password@host/db",
    "Meet at 10:30@noon, room 4.",
    "task-list-for-the-next-quarter-2024",
    "A skirt, a skiing trip and a risk-free offer.",
]


@pytest.mark.parametrize(("text", "secret"), REAL, ids=[text[:24] for text, _ in REAL])
def test_a_secret_is_found_and_nothing_but_the_secret_is_masked(text, secret):
    assert [text[found.start : found.end] for found in secrets_in(text)] == [secret]
    masked = without_secrets(text)
    assert secret not in masked
    assert masked in (text.replace(secret, "[key]"), text.replace(secret, "[password]"))
    assert not has_secret(masked)


@pytest.mark.parametrize("text", HARMLESS, ids=[text[:24] for text in HARMLESS])
def test_prose_placeholders_and_programs_are_no_secrets(text):
    assert secrets_in(text) == []


@pytest.mark.parametrize(("text", "secret"), REAL, ids=[text[:24] for text, _ in REAL])
def test_every_secret_holds_a_sign_so_that_quick_readers_see_it_too(text, secret):
    assert not text.isascii() or any(sign in text.lower() for sign in SIGNS)


def test_several_secrets_in_one_text_are_all_masked():
    text = f"password: hunter2 and key {OPENAI}, postgres://a:b1c2d3@host"
    assert (
        secrets_replaced(text, lambda secret, value: "#")
        == "password: # and key #, postgres://a:#@host"
    )


def test_a_masked_row_can_still_be_learned_from():
    row = {"question": "password: hunter2", "answer": "I reset it."}
    masked = {name: without_secrets(value) for name, value in row.items()}
    assert (
        to_example(masked, "question-answer", {}).messages[0]["content"] == "password: [password]"
    )
