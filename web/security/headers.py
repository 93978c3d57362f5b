"""The security headers of every response: CSP, framing, sniffing, caching."""

from flask import Flask, Response, request

CSP = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",  # Bootstrap's and Swagger UI's style sheets carry their icons as data: URLs
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def install(app: Flask) -> None:
    """Add the headers to every response of the application."""
    app.after_request(add_headers)


def add_headers(response: Response) -> Response:
    """Set the headers that are not set yet. Only the browser may keep answers, and it checks them again."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "private, no-cache")
        response.vary.update(("Cookie", "Authorization", "HX-Request"))
    return response
