"""The exact lines for a proxy that does not hand on what devices need, without I/O."""

from __future__ import annotations

UPGRADE = (
    "Caddy    reverse_proxy does it by itself; remove header_up lines for Upgrade and Connection",
    "nginx    proxy_http_version 1.1;",
    "         proxy_set_header Upgrade $http_upgrade;",
    '         proxy_set_header Connection "upgrade";',
    "HAProxy  mode http does it by itself; remove del-header and set-header lines for Upgrade and Connection",
)
HOST = (
    "Caddy    header_up Host {host}        (the default: remove any other header_up Host)",
    "nginx    proxy_set_header Host $http_host;",
    "HAProxy  remove http-request set-header Host",
    "or name this address in public_urls, when the name was right and the setting is not",
)
SUBPROTOCOL = (
    "Caddy    remove header_up lines for Sec-WebSocket-Protocol",
    "nginx    remove proxy_set_header Sec-WebSocket-Protocol",
    "HAProxy  remove http-request del-header Sec-WebSocket-Protocol",
)
BUFFERING = (
    "Caddy    flush_interval -1            (in reverse_proxy)",
    "nginx    proxy_buffering off;",
    "HAProxy  remove option http-buffer-request",
)
IDLE = (
    "Caddy    remove stream_timeout        (in reverse_proxy)",
    "nginx    proxy_read_timeout 1h;",
    "         proxy_send_timeout 1h;",
    "HAProxy  timeout tunnel 1h",
)
FORWARDED = (
    "hub      behind_proxy = true",
    '         trusted_proxies = ["the address of the proxy as the hub sees it"]',
    "Caddy    does it by itself",
    "nginx    proxy_set_header X-Forwarded-For $remote_addr;",
    "HAProxy  http-request del-header X-Forwarded-For",
    "         option forwardfor",
)
PRIVATE = (
    "Caddy    @private path /metrics* /readyz*",
    "         respond @private 404",
    "nginx    location /metrics { return 404; }",
    "HAProxy  http-request return status 404 if { path_beg -i /metrics /readyz }",
)
REACH = (
    "is the hub running?                  hub health",
    "Caddy    reverse_proxy 127.0.0.1:8080",
    "nginx    proxy_pass http://127.0.0.1:8080;",
    "HAProxy  server hub1 127.0.0.1:8080",
)
