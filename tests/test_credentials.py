"""Credentials in texts: hidden in all their usual forms, and nothing else is touched."""

import time

import pytest

from distens.config.config import parse_config
from distens.credentials import has_credentials, redact
from distens.errors import ConfigError, RunError

SECRET = "Zx7-hunter2.Q"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
KEY = "-----BEGIN {0}PRIVATE KEY-----\nMIIEow\nZx7hunter2Q\n"

HIDDEN = [
    f"Authorization: Bearer {SECRET}",
    f"authorization: basic {SECRET}",
    f"Authorization: {SECRET}",
    f"{{'Authorization': 'Bearer {SECRET}', 'Accept': '*/*'}}",
    f"[('Authorization', 'Token {SECRET}')]",
    f"Proxy-Authorization: Digest username=me, response={SECRET}",
    f"the server refused Bearer {SECRET}",
    f"Cookie: session={SECRET}; path=/",
    f"password={SECRET}",
    f"password = {SECRET}",
    f"PASSWORD: {SECRET}",
    f"MLFLOW_TRACKING_PASSWORD={SECRET}",
    f"db_password: '{SECRET} with blanks'",
    f'{{"password": "{SECRET}"}}',
    f'{{\\"password\\": \\"{SECRET}\\"}}',
    "password: 12345678",
    f"host=db user=me passwd={SECRET} dbname=x",
    f"Server=db;Uid=me;Pwd={SECRET};",
    f"token: {SECRET}",
    f"token={SECRET}",
    f"x-auth-token: {SECRET}",
    f"HF_TOKEN={SECRET}",
    f"api_key={SECRET}",
    f"api-key: {SECRET}",
    f"X-Api-Key: {SECRET}",
    f"('x-api-key', '{SECRET}')",
    f"apikey='{SECRET}'",
    f"OPENAI_API_KEY={SECRET}",
    f"client_secret={SECRET}",
    f"aws_secret_access_key = {SECRET}",
    f"AccountName=x;AccountKey={SECRET}==;EndpointSuffix=y",
    f"mlflow server --password {SECRET} --port 5000",
    f"tool --api-key={SECRET}",
    f"https://user:{SECRET}@host/path",
    f"redis://:{SECRET}@host:6379/0",
    f"https://host/x?X-Amz-Signature={SECRET}&b=1",
    f"https://box.blob.core.windows.net/x?sv=1&sig={SECRET}",
    "hf_" + "Zx7hunter2Q" * 3,
    "ghp_" + "Zx7hunter2Q" * 3,
    "github_pat_" + "Zx7hunter2Q" * 3,
    "sk-" + "Zx7hunter2Q" * 3,
    "sk-proj-" + "Zx7-hunter2Q" * 3,
    "xoxb-1234567890-" + "Zx7hunter2Q",
    "glpat-" + "Zx7hunter2Q" * 2,
    "AIza" + "Zx7hunter2Q" * 3,
    "eyJhbGciOi.eyJzdWIiOi." + "Zx7hunter2Q",
    KEY.format("") + "-----END PRIVATE KEY-----",
    KEY.format("RSA ") + "-----END RSA PRIVATE KEY-----",
    KEY.format("OPENSSH "),  # cut short
]


@pytest.mark.parametrize("text", HIDDEN, ids=range(len(HIDDEN)))
@pytest.mark.parametrize("around", ["{}", "ValueError: the call failed ({}) at 12:30", "first line\n{}\nlast line"])
def test_a_credential_is_hidden_wherever_it_stands(text, around):
    shown = redact(around.format(text))
    assert "hunter2" not in shown and "12345678" not in shown and "***" in shown, shown
    assert shown.startswith(around.partition("{}")[0])
    assert redact(shown) == shown and not has_credentials(shown)
    assert "hunter2" not in str(RunError(around.format(text)))


def test_keys_of_aws_are_known_by_their_form():
    assert redact(f"key {AWS} was refused") == "key *** was refused"


UNTOUCHED = [
    "tokens: 300",
    "max_tokens=4096",
    "token: 300",
    "token=7",
    "num_token: 1e5",
    "password_field",
    "password_field: the column's name",
    "a class called secret",
    "secret: 0.9512",
    "secret: 12 rows",
    "class secret, 40 rows; class public, 60 rows",
    "data.token: expected a number, found True",
    "members.a.api_key: unknown key. Did you mean 'api'?",
    "tracking.password: missing",
    "KeyError: 'password'",
    "the authorization, and the rest, failed",
    "authorization: failed for this user",
    "a cookie cutter: round",
    "tokenizer=bert-base-uncased",
    "token=None",
    "secret=True",
    "keys: a, b, c",
    "key: value",
    "monkey=banana",
    "passes=3 pass: 2",
    "bearer of bad news",
    "Basic operations on matrices are used",
    "asia, hf_small, sk-learn, sk-learn-contrib, ghp_x",
    "sklearn:digits s3://bucket/a=1/b=2",
    "nll 0.3211, error 0.0871 in 3.2 s",
    "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
    "eyJ is how a token begins",
    "SECRET_SANTA",
]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_ordinary_text_is_untouched(text):
    assert redact(text) == text and not has_credentials(text)


def test_ordinary_configs_are_accepted():
    member = {
        "kind": "estimator",
        "estimator": "svm",
        "options": {"max_tokens": 300, "token": 5, "password_field": "x"},
    }
    data = {"source": "s3://bucket/tokens=5/x.csv", "target": "secret", "drop": ["password", "token", "api_key"]}
    assert parse_config({"name": "secret", "data": data, "members": {"token": member}}).data.target == "secret"


@pytest.mark.parametrize("text", [f"Authorization: Bearer {SECRET}", "hf_" + "Zx7hunter2Q" * 3, f"password={SECRET}"])
def test_a_config_with_credentials_is_refused(text):
    with pytest.raises(ConfigError, match=r"data\.source: credentials in it") as refused:
        parse_config({"name": "x", "data": {"source": text}, "members": {"a": {"kind": "classifier"}}})
    assert "hunter2" not in str(refused.value)


PARTS = ["a", "-", "=", "password", "token=", "eyJ", "-eyJ", "-sk-", "Bearer ", "-----BEGIN PRIVATE KEY-----", "://"]
PARTS += ["a:", "http://a:", "?pass", "pass", "cookie:", "authorization:", "password:'", "--token", "password  ", " '"]


@pytest.mark.parametrize("part", PARTS)
def test_long_texts_take_no_time(part):
    text = part * (200_000 // len(part))
    began = time.monotonic()
    redact(f"://{text} token=")
    assert time.monotonic() - began < 5


def test_texts_without_a_sign_take_next_to_no_time():
    began = time.monotonic()
    for _ in range(100_000):
        redact("m0001 mlp: nll 0.3211 in 3.2 s")
    assert time.monotonic() - began < 1
