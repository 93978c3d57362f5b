"""Who gets in: passwords, links, tokens; what a session is worth; what a form must prove."""

import errno
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO

import pytest
from apiflask import APIFlask
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from flask import request
from itsdangerous import TimestampSigner
from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from db.access import accounts, links, tokens
from db.clock import from_now
from db.database import session_scope
from db.models import ModelVersion, SignInCount, Token, User
from db.settings import Settings
from tests.builders.files import png
from tests.web.actors import PASSWORD, Api, Browser, token_of
from web.app import create_app
from web.security import known_devices, proxies, sign_in_limits
from web.security.auth import local_path
from web.security.secret_key import secret_key


def session_cookie(browser: Browser) -> str:
    cookie = browser.client.get_cookie("ctbatch")
    assert cookie is not None
    return cookie.value


def test_password_signs_in(anns_browser: Browser) -> None:
    page = anns_browser.get("/jobs")
    assert page.status_code == 200
    assert "No jobs yet" in page.text


def test_pages_lead_to_the_sign_in_and_back(browser: Browser, ann: User) -> None:
    away = browser.get("/models?x=1")
    assert (away.status_code, away.headers["Location"]) == (303, "/sign-in?next=/models?x%3D1")
    form = browser.get(away.headers["Location"]).text
    assert "If you have no account, or have lost your password, ask an admin of this server." in form
    sent = browser.post("/runs/new", {"name": "x"}, headers={"Referer": "http://localhost/runs/new?dataset=a/1"})
    assert sent.headers["Location"] == "/sign-in?next=/runs/new?dataset%3Da/1"
    back = browser.sign_in("ann", next="/models?x=1")
    assert back.headers["Location"] == "/models?x=1"


def test_form_of_another_tab_leads_on_after_the_sign_in(browser: Browser, ann: User) -> None:
    form = {"csrf_token": browser.csrf(), "name": "ann", "password": PASSWORD, "next": "/models?x=1"}
    browser.sign_in("ann")
    answer = browser.client.post("/sign-in", data=form)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/models?x=1")


def test_form_of_another_tab_does_not_go_on_as_another_user(browser: Browser, ann: User, root: User) -> None:
    form = {"csrf_token": browser.csrf(), "name": "root", "password": PASSWORD, "next": "/models"}
    browser.sign_in("ann")
    answer = browser.client.post("/sign-in", data=form)
    assert (answer.status_code, 'value="root"' in answer.text) == (400, True)
    browser.sign_in("root")
    assert "Signed in as root" in " ".join(re.sub("<[^>]*>", " ", browser.get("/jobs").text).split())


def test_sign_in_form_that_is_out_of_date_is_shown_again(browser: Browser, ann: User) -> None:
    form = {"csrf_token": "old", "name": "ann", "password": PASSWORD, "next": "/models"}
    answer = browser.client.post("/sign-in", data=form)
    assert answer.status_code == 400
    assert 'value="ann"' in answer.text
    assert 'name="next" value="/models"' in answer.text
    assert browser.get("/models").status_code == 303  # not signed in


def test_second_tab_signs_out_once_more(anns_browser: Browser) -> None:
    token = anns_browser.csrf("/jobs")
    assert anns_browser.client.post("/sign-out", data={"csrf_token": "old"}).status_code == 400
    assert anns_browser.get("/jobs").status_code == 200
    for _ in range(2):
        answer = anns_browser.client.post("/sign-out", data={"csrf_token": token})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")


def test_button_of_a_link_that_is_out_of_date_is_shown_again(browser: Browser, ann: User) -> None:
    with session_scope() as s:
        secret = links.sign_in_link_secret(s, ann, "/models")
    answer = browser.client.post(f"/sign-in/{secret}", data={"csrf_token": "old"})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/sign-in/{secret}")
    assert browser.post(answer.headers["Location"]).status_code == 303
    assert browser.get("/jobs").status_code == 200


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/a\\b", "javascript:1", "/\n/evil", "evil", ""],
)
def test_sign_in_leads_to_no_other_site(target: str) -> None:
    assert local_path(target) == "/"


def test_wrong_password_and_unknown_name_read_the_same(browser: Browser, ann: User) -> None:
    wrong, unknown = browser.sign_in("ann", "no"), browser.sign_in("nobody", "no")
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    strip = re.compile(r'(content|value)="[^"]*"')
    assert strip.sub("", wrong.text) == strip.sub("", unknown.text)
    assert "do not match" in wrong.text


def test_unknown_name_costs_a_password_check(real_password_hasher: PasswordHasher) -> None:
    """What an unknown name is checked against is a hash of the same cost as a known one's: argon2's own default."""
    with pytest.raises(VerifyMismatchError):
        real_password_hasher.verify(accounts._UNKNOWN, "no")
    assert not real_password_hasher.check_needs_rehash(accounts._UNKNOWN)
    assert not PasswordHasher().check_needs_rehash(accounts._UNKNOWN)


def guess(app: APIFlask, count: int, address: str = "192.0.2.7", name: str = "ann") -> list[int]:
    """Send wrong passwords from a fresh browser at an address; the statuses."""
    browser = Browser(app)
    browser.client.environ_base["REMOTE_ADDR"] = address
    return [browser.sign_in(name, f"guess {i}").status_code for i in range(count)]


def test_row_41_wrong_passwords_are_stopped(app: APIFlask, browser: Browser, ann: User) -> None:
    statuses = [browser.sign_in("ann", f"guess {i}").status_code for i in range(12)]
    assert statuses[:10] == [401] * 10
    assert statuses[10:] == [429] * 2
    refused = browser.sign_in("ann")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert "Wait" in refused.text


def test_wrong_passwords_for_one_name_do_not_lock_out_another(app: APIFlask, ann: User, root: User) -> None:
    assert guess(app, 12, "127.0.0.1", name="root")[-1] == 429
    assert Browser(app).sign_in("ann").status_code == 303


def test_wrong_passwords_for_one_name_are_counted_over_all_networks(app: APIFlask, ann: User) -> None:
    statuses = [status for host in range(4) for status in guess(app, 6, f"198.51.100.{host}")]
    assert statuses == [401] * 20 + [429] * 4


def test_ipv6_network_is_one_guesser(app: APIFlask, ann: User) -> None:
    statuses = [status for host in range(1, 13) for status in guess(app, 1, f"2001:db8::{host:x}")]
    assert statuses == [401] * 10 + [429] * 2
    assert guess(app, 1, "2001:db8:0:1::1") == [401]


def test_ipv4_addresses_seen_by_an_ipv6_socket_are_networks_of_their_own(app: APIFlask, ann: User) -> None:
    assert guess(app, 11, "::ffff:192.0.2.7")[-1] == 429
    assert guess(app, 1, "::ffff:192.0.2.8") == [401]
    assert guess(app, 1, "192.0.2.7") == [429]


def test_wait_grows_from_a_minute_to_an_hour_to_a_day(
    app: APIFlask, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in_limits, "ACCOUNT_AND_NETWORK", (2, 4, 6))
    waits = []
    for over in (0, 60, 3600):
        with session_scope() as s:
            s.execute(update(SignInCount).where(SignInCount.seconds <= over).values(ends_at=from_now(-1)))
        assert guess(app, 3, "127.0.0.1") == [401, 401, 429]
        waits.append(int(Browser(app).sign_in("ann").headers["Retry-After"]))
    assert 0 < waits[0] <= 60 < waits[1] <= 3600 < waits[2] <= 86_400


def test_restart_of_web_forgets_no_wrong_password(settings: Settings, champion: ModelVersion, ann: User) -> None:
    assert guess(create_app(settings), 10) == [401] * 10
    assert guess(create_app(settings), 1) == [429]


def test_guesses_that_come_at_once_do_not_pass_the_limit(app: APIFlask, ann: User) -> None:
    with ThreadPoolExecutor(16) as pool:
        statuses = [status for some in pool.map(lambda _: guess(app, 1), range(16)) for status in some]
    assert sorted(statuses) == [401] * 10 + [429] * 6


def test_guesses_at_many_names_are_counted_by_network(
    app: APIFlask, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in_limits, "NETWORK", (5, 500, 2000))
    known = Browser(app)
    known.sign_in("ann")
    known.post("/sign-out")
    assert [guess(app, 1, "127.0.0.1", f"name {i}") for i in range(7)] == [[401]] * 5 + [[429]] * 2
    assert Browser(app).sign_in("ann").status_code == 429
    assert guess(app, 1, "192.0.2.8") == [401], "another network"
    assert known.sign_in("ann").status_code == 303


def test_known_device_gets_in_while_strangers_guess(app: APIFlask, ann: User) -> None:
    known = Browser(app)
    known.sign_in("ann")
    known.post("/sign-out")
    assert guess(app, 12, "127.0.0.1")[-1] == 429
    assert Browser(app).sign_in("ann").status_code == 429
    assert known.sign_in("ann").status_code == 303


def test_known_device_has_as_many_guesses_as_a_stranger(app: APIFlask, ann: User) -> None:
    known = Browser(app)
    known.sign_in("ann")
    known.post("/sign-out")
    assert [known.sign_in("ann", "no").status_code for _ in range(11)] == [401] * 10 + [429]
    assert Browser(app).sign_in("ann").status_code == 303


def test_device_is_known_for_its_own_accounts_only(app: APIFlask, ann: User, root: User) -> None:
    shared = Browser(app)
    for name in ("ann", "root"):
        assert shared.sign_in(name).status_code == 303
        shared.post("/sign-out")
    assert guess(app, 12, "127.0.0.1")[-1] == 429
    with app.test_request_context():
        of_ann, of_root = known_devices._cookie("ann"), known_devices._cookie("root")
    stranger, cookie = Browser(app), shared.client.get_cookie(of_root)
    assert cookie is not None
    stranger.client.set_cookie(of_ann, cookie.value)  # root's, as if it were ann's
    assert stranger.sign_in("ann").status_code == 429
    assert shared.sign_in("ann").status_code == 303


@pytest.mark.slow
def test_password_of_ann_is_not_told_by_the_wait(app: APIFlask, ann: User) -> None:
    """A name that does not exist is counted as one that does."""
    assert guess(app, 12, name="nobody") == guess(app, 12, name="ann")


def test_successful_sign_in_is_not_counted(app: APIFlask, ann: User) -> None:
    assert [Browser(app).sign_in("ann").status_code for _ in range(12)] == [303] * 12


def test_session_changes_at_sign_in(browser: Browser, ann: User) -> None:
    browser.get("/sign-in")
    before, token = session_cookie(browser), browser.csrf()
    browser.sign_in("ann")
    assert session_cookie(browser) != before
    refused = browser.client.post("/sign-out", data={"csrf_token": token})
    assert refused.status_code == 400


def test_planted_session_is_not_signed_in_by_its_victim(app: APIFlask, ann: User) -> None:
    attacker, victim = Browser(app), Browser(app)
    attacker.get("/sign-in")
    planted = session_cookie(attacker)
    victim.client.set_cookie("ctbatch", planted)
    victim.sign_in("ann")
    attacker.client.set_cookie("ctbatch", planted)
    assert attacker.get("/jobs").status_code == 303


def set_signing_clock(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Let cookies be signed by a clock that is this much ahead of the true time."""
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: int(time.time()) + seconds)


def test_server_whose_clock_is_behind_knows_the_cookies_of_another(
    app: APIFlask, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser(app)
    with monkeypatch.context() as ahead:
        set_signing_clock(ahead, 120)
        browser.sign_in("ann")
    assert browser.get("/jobs").status_code == 200
    browser.post("/sign-out")
    assert guess(app, 12, "127.0.0.1")[-1] == 429
    assert browser.sign_in("ann").status_code == 303, "a known device"


def test_device_is_forgotten_after_a_year(app: APIFlask, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser(app)
    with monkeypatch.context() as past:
        set_signing_clock(past, -366 * 24 * 3600)
        browser.sign_in("ann")
    assert guess(app, 12, "127.0.0.1")[-1] == 429
    assert browser.sign_in("ann").status_code == 429


def test_signing_out_ends_the_session_on_the_server(anns_browser: Browser) -> None:
    kept = session_cookie(anns_browser)
    out = anns_browser.client.post("/sign-out", data={"csrf_token": anns_browser.csrf("/jobs")})
    assert (out.status_code, out.headers["Clear-Site-Data"]) == (303, '"cache"')
    anns_browser.client.set_cookie("ctbatch", kept)
    assert anns_browser.get("/jobs").status_code == 303


def test_cookie_is_kept_from_scripts_and_other_sites(browser: Browser, ann: User) -> None:
    cookie = browser.sign_in("ann").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_cookies_over_https_are_secure_and_for_this_host_alone(app: APIFlask, ann: User) -> None:
    client, site = app.test_client(), "https://localhost"
    token = client.get("/sign-in", base_url=site).text.split('name="csrf-token" content="')[1].split('"')[0]
    form = {"csrf_token": token, "name": "ann", "password": PASSWORD}
    answer = client.post("/sign-in", base_url=site, headers={"Referer": f"{site}/sign-in"}, data=form)
    cookies = answer.headers.getlist("Set-Cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        assert cookie.startswith("__Host-ctbatch")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
    assert client.get("/jobs", base_url=site).status_code == 200


def test_http_has_no_https_headers_unless_the_settings_say_so(app: APIFlask, settings: Settings) -> None:
    plain = app.test_client().get("/sign-in")
    assert "Strict-Transport-Security" not in plain.headers
    assert "Secure" not in plain.headers["Set-Cookie"]
    behind_tls = create_app(settings.model_copy(update={"secure_cookies": True})).test_client().get("/sign-in")
    assert "Strict-Transport-Security" in behind_tls.headers
    assert behind_tls.headers["Set-Cookie"].startswith("__Host-")


def used(seconds_ago: float) -> None:
    """Let all sessions and tokens have been used last at a time in the past."""
    with session_scope() as s:
        s.execute(update(Token).values(used_at=from_now(-seconds_ago)))


def is_recorded() -> bool:
    """Whether a session was used within the last few seconds, as far as the database knows."""
    with session_scope() as s:
        return bool(s.scalar(select(Token.used_at > from_now(-20)).where(Token.kind == "session")))


def test_idle_session_ends_and_a_used_one_does_not(anns_browser: Browser, settings: Settings) -> None:
    used(settings.session_idle_seconds - 60)
    assert anns_browser.get("/jobs").status_code == 200
    used(settings.session_idle_seconds + 1)
    assert anns_browser.get("/jobs").status_code == 303


def test_open_page_keeps_no_session_alive(anns_browser: Browser) -> None:
    used(600)
    for path in ("/jobs?poll=1", "/api/v1/jobs"):
        assert anns_browser.get(path).status_code == 200
        assert not is_recorded()
    assert anns_browser.get("/jobs").status_code == 200
    assert is_recorded()


def test_posting_a_form_keeps_a_session_alive(anns_browser: Browser) -> None:
    token = anns_browser.csrf("/jobs")
    used(600)
    anns_browser.client.post("/tokens?poll=1", data={"csrf_token": token, "label": "x"})
    assert is_recorded()


def test_use_of_a_session_is_recorded_once_a_minute(anns_browser: Browser) -> None:
    used(40)
    anns_browser.get("/jobs")
    assert not is_recorded()
    used(61)
    anns_browser.get("/jobs")
    assert is_recorded()


def test_tokens_of_programs_do_not_end_as_idle(api: Api, settings: Settings) -> None:
    used(10 * settings.session_idle_seconds)
    assert api.get("/jobs").status_code == 200


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_row_40_form_without_its_token_is_refused(anns_browser: Browser, token: str) -> None:
    for path in ("/tokens", "/sign-out"):
        assert anns_browser.client.post(path, data={"csrf_token": token}).status_code == 400


def test_token_of_another_session_is_refused(app: APIFlask, anns_browser: Browser) -> None:
    foreign = Browser(app).csrf()
    assert anns_browser.client.post("/tokens", data={"csrf_token": foreign, "label": "x"}).status_code == 400


def test_link_signs_in_once(browser: Browser, app: APIFlask, ann: User) -> None:
    with session_scope() as s:
        secret = links.sign_in_link_secret(s, ann, "/models")
    first = browser.post(f"/sign-in/{secret}")
    assert (first.status_code, first.headers["Location"]) == (303, "/models")
    assert browser.get("/models").status_code == 200
    another = Browser(app)
    assert another.get(f"/sign-in/{secret}").status_code == 401
    assert another.post(f"/sign-in/{secret}").status_code == 401
    assert another.get("/models").status_code == 303


def test_link_is_not_used_up_by_opening_it(browser: Browser, app: APIFlask, ann: User) -> None:
    with session_scope() as s:
        secret = links.sign_in_link_secret(s, ann, "/models")
    for method in (browser.client.head, browser.client.get):
        assert method(f"/sign-in/{secret}").status_code == 200
    assert browser.get("/models").status_code == 303
    no_token = browser.client.post(f"/sign-in/{secret}")
    assert no_token.headers["Location"] == f"/sign-in/{secret}"  # the button is shown again
    assert browser.post(f"/sign-in/{secret}").headers["Location"] == "/models"


def test_api_takes_a_token(api: Api) -> None:
    assert api.get("/jobs").status_code == 200


def test_row_42_unknown_revoked_and_expired_tokens_are_401(app: APIFlask, ann: User) -> None:
    with session_scope() as s:
        revoked = tokens.issue_token(s, ann, "r")
        expired = tokens.issue_token(s, ann, "e", timedelta(seconds=-1))
    with session_scope() as s:
        (token,) = (t for t in tokens.list_tokens(s, ann) if t.label == "r")
        tokens.revoke_token(s, ann, token.id)
    client = app.test_client()
    for secret in ("nonsense", revoked, expired, ""):
        answer = client.get("/api/v1/jobs", headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json["type"] == "urn:ctbatch:problem:not-signed-in"


def test_bad_token_is_not_made_good_by_a_cookie(anns_browser: Browser) -> None:
    assert anns_browser.get("/api/v1/jobs").status_code == 200
    answer = anns_browser.get("/api/v1/jobs", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401


def test_basic_authentication_of_a_proxy_is_ignored(browser: Browser, ann: User) -> None:
    browser.client.environ_base["HTTP_AUTHORIZATION"] = "Basic YTpi"
    assert browser.get("/api/v1/jobs").status_code == 401
    assert browser.sign_in("ann").status_code == 303
    for path in ("/jobs", "/api/v1/jobs"):
        assert browser.get(path).status_code == 200


def test_browser_writes_to_the_api_need_the_pages_token(anns_browser: Browser) -> None:
    def submit(**headers: str) -> int:
        return anns_browser.client.post(
            "/api/v1/jobs", data={"files": (BytesIO(png()), "1.png")}, headers=headers
        ).status_code

    assert submit() == 400
    assert submit(**{"X-CSRFToken": "nonsense"}) == 400
    assert submit(Authorization="Basic YTpi") == 400
    assert submit(**{"X-CSRFToken": anns_browser.csrf("/jobs")}) == 202


def test_password_change_ends_sessions_and_tokens(app: APIFlask, anns_browser: Browser, ann: User) -> None:
    api = Api(app, ann)
    with session_scope() as s:
        accounts.set_password(s, s.merge(ann), "another password")
    assert anns_browser.get("/jobs").status_code == 303
    assert api.get("/jobs").status_code == 401


NEW = "a new long password"


def change(browser: Browser, present: str = PASSWORD, new: str = NEW, again: str | None = None) -> TestResponse:
    fields = {"present": present, "new": new, "again": new if again is None else again}
    return browser.client.post("/password", data={"csrf_token": browser.csrf("/password"), **fields})


def test_user_changes_their_own_password(app: APIFlask, anns_browser: Browser, ann: User) -> None:
    other, api = Browser(app), Api(app, ann)
    other.sign_in("ann")
    cookie = session_cookie(anns_browser)
    assert '<a href="/password">' in anns_browser.get("/jobs").text
    assert change(anns_browser).status_code == 303
    assert "Your password is changed." in anns_browser.get("/jobs").text
    assert session_cookie(anns_browser) != cookie
    assert other.get("/jobs").status_code == 303
    assert api.get("/jobs").status_code == 401
    assert Browser(app).sign_in("ann").status_code == 401
    assert Browser(app).sign_in("ann", NEW).status_code == 303


@pytest.mark.parametrize(
    ("present", "new", "again", "reason"),
    [
        ("wrong", NEW, NEW, "present password"),
        (PASSWORD, NEW, NEW + "x", "differ"),
        (PASSWORD, "short", "short", "at least 12 characters"),
        (PASSWORD, "x" * 1001, "x" * 1001, "at most 1,000 characters"),
    ],
    ids=["wrong", "typing error", "short", "long"],
)
def test_refused_change_of_a_password_changes_nothing(
    app: APIFlask, anns_browser: Browser, present: str, new: str, again: str, reason: str
) -> None:
    refused = change(anns_browser, present, new, again)
    assert (refused.status_code, reason in refused.text) == (422, True)
    assert anns_browser.get("/jobs").status_code == 200
    assert Browser(app).sign_in("ann").status_code == 303


def test_present_password_cannot_be_guessed_in_an_open_session(app: APIFlask, anns_browser: Browser) -> None:
    assert [change(anns_browser, f"guess {i}").status_code for i in range(11)] == [422] * 10 + [429]
    refused = change(anns_browser)
    assert (refused.status_code, "Wait" in refused.text) == (429, True)
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert Browser(app).sign_in("ann", NEW).status_code == 401


def test_changes_of_a_password_that_succeed_are_not_counted(anns_browser: Browser) -> None:
    for turn in range(12):
        assert change(anns_browser, *((PASSWORD, NEW) if turn % 2 == 0 else (NEW, PASSWORD))).status_code == 303


def test_password_page_is_for_users_with_a_password(app: APIFlask, browser: Browser, bob: User) -> None:
    assert browser.get("/password").headers["Location"] == "/sign-in?next=/password"
    with session_scope() as s:
        link = links.sign_in_link_secret(s, s.merge(bob), "/jobs")
    browser.post(f"/sign-in/{link}")
    assert 'href="/password"' not in browser.get("/jobs").text
    assert 'type="password"' not in browser.get("/password").text
    assert change(browser, "").status_code == 422


def test_password_that_was_set_meanwhile_is_not_changed(
    app: APIFlask, anns_browser: Browser, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_password = accounts.verify_password

    def verify(s: Session, name: str, password: str) -> User | None:
        user = verify_password(s, name, password)
        with session_scope() as other:
            accounts.set_password(other, other.get_one(User, ann.id), "set by an admin")
        return user

    monkeypatch.setattr("web.views.account.sign_in.accounts.verify_password", verify)
    assert change(anns_browser).headers["Location"].startswith("/sign-in")
    monkeypatch.undo()
    assert Browser(app).sign_in("ann", "set by an admin").status_code == 303


def test_form_that_is_sent_twice_makes_one_token(anns_browser: Browser, app: APIFlask) -> None:
    form = {
        "csrf_token": anns_browser.csrf(),
        "label": "night",
        "idempotency_key": form_key(anns_browser.get("/tokens")),
    }
    pages = [anns_browser.client.post("/tokens", data=form, follow_redirects=True).text for _ in range(2)]
    first, second = (re.findall(r'id="secret">([^<]+)<', page) for page in pages)
    assert first == second
    assert pages[1].count("/revoke") == 1
    assert app.test_client().get("/api/v1/jobs", headers={"Authorization": f"Bearer {first[0]}"}).status_code == 200
    [token_id] = re.findall(r"/tokens/(\d+)/revoke", pages[1])
    anns_browser.post(f"/tokens/{token_id}/revoke")
    again = anns_browser.client.post("/tokens", data=form)
    assert (again.status_code, "has made its token already" in again.text) == (409, True)
    anns_browser.post("/tokens", form | {"idempotency_key": form_key(anns_browser.get("/tokens"))})
    assert re.findall(r'id="secret">([^<]+)<', anns_browser.get("/tokens").text) != first


def form_key(page: TestResponse) -> str:
    [key] = re.findall(r'name="idempotency_key" value="([^"]+)"', page.text)
    return str(key)


def test_tokens_are_made_shown_once_and_revoked(app: APIFlask, anns_browser: Browser) -> None:
    made = anns_browser.client.post(
        "/tokens", data={"csrf_token": anns_browser.csrf("/tokens"), "label": "<b>night</b>", "days": "30"}
    )
    assert (made.status_code, made.headers["Location"]) == (303, "/tokens")
    shown = anns_browser.get("/tokens")
    assert shown.headers["Cache-Control"] == "no-store"
    secret = re.search(r'id="secret">([^<]+)<', shown.text)
    assert secret is not None
    header = {"Authorization": f"Bearer {secret[1]}"}
    assert app.test_client().get("/api/v1/jobs", headers=header).status_code == 200
    listed = anns_browser.get("/tokens").text
    assert secret[1] not in listed
    assert "&lt;b&gt;night&lt;/b&gt;" in listed
    token_id = re.search(r"/tokens/(\d+)/revoke", listed)
    assert token_id is not None
    assert listed.count("/revoke") == 1, "a reload makes no second token"
    gone = anns_browser.client.post(token_id[0], data={"csrf_token": anns_browser.csrf("/jobs")})
    assert (gone.status_code, gone.headers["Location"]) == (303, "/tokens")
    assert anns_browser.get(token_id[0]).headers["Location"] == "/tokens"
    assert "The token is revoked." in anns_browser.get("/tokens").text
    assert "The token is revoked." not in anns_browser.get("/tokens").text
    assert app.test_client().get("/api/v1/jobs", headers=header).status_code == 401


def test_nobody_revokes_anothers_token(app: APIFlask, anns_browser: Browser, bob: User) -> None:
    header = token_of(bob)
    with session_scope() as s:
        token_id = s.query(Token).filter_by(user_id=bob.id).one().id
    answer = anns_browser.client.post(f"/tokens/{token_id}/revoke", data={"csrf_token": anns_browser.csrf("/tokens")})
    assert answer.status_code == 404
    assert app.test_client().get("/api/v1/jobs", headers=header).status_code == 200


def test_session_tokens_are_not_listed(anns_browser: Browser) -> None:
    assert "browser" not in anns_browser.get("/tokens").text.split("<main")[1]


def test_user_without_a_password_cannot_sign_in_with_an_empty_one(browser: Browser, bob: User) -> None:
    assert browser.sign_in("bob", "").status_code == 401


def test_kept_key_is_read_on_a_full_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    own = settings.model_copy(update={"secret_key": SecretStr("")})

    def fail_to_write(_: int) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(secrets, "token_hex", fail_to_write)
        with pytest.raises(OSError, match="No space"):
            secret_key(own)
    assert list(settings.home.glob("secret_key*")) == [], "no leftover"
    first = secret_key(own)
    monkeypatch.setattr(secrets, "token_hex", fail_to_write)
    assert secret_key(own) == first


def test_kept_key_survives_a_restart(settings: Settings) -> None:
    own = settings.model_copy(update={"secret_key": SecretStr("")})
    first = secret_key(own)
    assert len(first) == 64
    assert secret_key(own) == first
    assert (settings.home / "secret_key").stat().st_mode & 0o777 == 0o600


def test_proxy_is_believed_only_when_one_is_set(settings: Settings, champion: ModelVersion, ann: User) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "ct.example"}
    seen = []
    for trusted in (0, 1, 2):
        app = create_app(settings.model_copy(update={"trusted_proxies": trusted}))
        app.before_request(lambda: seen.append((request.remote_addr, request.scheme, request.host)))
        app.test_client().get("/healthz", headers=forwarded)
        forwarded["X-Forwarded-For"] += ", 198.51.100.1"  # the address of another proxy
    assert seen == [("127.0.0.1", "http", "localhost"), *[("198.51.100.1", "https", "ct.example")] * 2]


@pytest.mark.parametrize(
    "written", ["192.0.2.{host}:{port}", "[2001:db8:0:{host}::1]:{port}", "[2001:db8:0:{host}::1]"]
)
def test_port_that_a_proxy_adds_is_not_part_of_the_address(settings: Settings, written: str) -> None:
    app = create_app(settings.model_copy(update={"trusted_proxies": 1}))
    seen = []
    app.before_request(lambda: seen.append(sign_in_limits.network()))
    for host, port in ((7, 40001), (7, 40002), (8, 40001)):
        forwarded = {"X-Forwarded-For": written.format(host=host, port=port)}
        app.test_client().get("/healthz", headers=forwarded)
    assert seen[0] == seen[1] != seen[2]
    assert "local" not in seen


@pytest.mark.parametrize(
    ("trusted", "forwarded", "note"),
    [
        (0, None, None),
        (0, "203.0.113.9", proxies.UNTRUSTED),
        (1, "203.0.113.9", None),
        (1, "203.0.113.9:40001", None),
        (1, "unknown", proxies.UNREADABLE),
        (1, "host.example:40001", proxies.UNREADABLE),
    ],
)
def test_note_is_left_if_a_proxy_is_not_trusted_or_writes_no_address(
    settings: Settings, champion: ModelVersion, trusted: int, forwarded: str | None, note: str | None
) -> None:
    settings.proxy_note.parent.mkdir(parents=True, exist_ok=True)
    settings.proxy_note.write_text("of an earlier process")
    client = create_app(settings.model_copy(update={"trusted_proxies": trusted})).test_client()
    client.get("/healthz", headers={"X-Forwarded-For": forwarded} if forwarded else {})
    assert (settings.proxy_note.read_text() if settings.proxy_note.exists() else None) == note
