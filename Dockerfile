# The hub in a container: the wheel that `make build` makes, over libraries pinned by hash.  No compiler, no
# build tool and no pip is in it, and nothing in it can be written to but /var/lib/hub.
#
#   make build && docker build -t sync-hub:0.1 .
#
# compose.yaml runs it in earnest.  A single hub on SQLite, behind a proxy on the same machine:
#
#   docker run -d -p 127.0.0.1:8080:8080 -v hub:/var/lib/hub -e HUB_HOST=0.0.0.0 -e HUB_BEHIND_PROXY=true \
#     -e HUB_PUBLIC_URLS=https://hub.example.org -e HUB_TRUSTED_PROXIES=172.16.0.0/12 sync-hub:0.1

FROM python:3.13-slim-trixie AS build
RUN python -m venv --without-pip /hub
COPY requirements.txt /build/
# Without what only `hub folder` and the building of wheels need.
RUN pip --python /hub/bin/python install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
      -r /build/requirements.txt \
 && pip --python /hub/bin/python uninstall -q -y \
      hatchling editables packaging pathspec pluggy tomlkit trove-classifiers watchfiles anyio idna typing-extensions
COPY dist/*.whl /build/
RUN pip --python /hub/bin/python install --no-cache-dir --no-deps /build/*.whl

FROM python:3.13-slim-trixie
COPY --from=build /hub /hub
# Volumes take the owner of the folder they are mounted over.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/hub /var/lib/hub-keys
ENV PATH=/hub/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HUB_DATA_DIR=/var/lib/hub
USER 10001:10001
WORKDIR /var/lib/hub
VOLUME /var/lib/hub
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=3 CMD ["hub", "health"]
ENTRYPOINT ["hub"]
CMD ["serve"]
