"""Sets the security headers of every response: CSP, framing, sniffing, caching, https."""

from flask import Flask, Response, request

from web.security.cookies import is_secure

CSP = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",  # Bootstrap and Swagger UI have icons as data: URLs in their style sheets
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
HSTS = "max-age=31536000"  # a year


def install(app: Flask) -> None:
    """Add the headers to every response of the application."""
    app.after_request(add_headers)


def add_headers(response: Response) -> Response:
    """Set the headers that are not set yet. Browsers may store only static files, because pages may show patients."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if is_secure():
        response.headers["Strict-Transport-Security"] = HSTS
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response
