"""Checks a request before its page: the user, and the CSRF token of a form."""

from flask import Blueprint, request

from web.security.auth import SAFE_METHODS, check_admin, check_user
from web.security.csrf import csrf


def guard_forms(blueprint: Blueprint) -> None:
    """Check the CSRF token of every form that is posted to a blueprint."""
    blueprint.before_request(csrf.protect)


def guard_pages(blueprint: Blueprint) -> None:
    """Let only users through to a blueprint, then check the forms."""
    blueprint.before_request(check_user)
    guard_forms(blueprint)


def guard_pages_for_admins_to_change(blueprint: Blueprint) -> None:
    """Let users read the pages of a blueprint, but only admins post its forms. Check the role before reading a form."""
    blueprint.before_request(check_user)
    blueprint.before_request(_check_post)
    guard_forms(blueprint)


def _check_post() -> None:
    if request.method not in SAFE_METHODS:
        check_admin()


def guard_admin_pages(blueprint: Blueprint) -> None:
    """Let only admins through to a blueprint, then check the forms."""
    blueprint.before_request(check_admin)
    guard_forms(blueprint)
