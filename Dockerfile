# The bridge as a container image, for `serve`, `listen`, `notify`, `tail` and `doctor`. Runs as a plain user on a read-only root file
# system and writes nothing; the embedded servers are left out. Packages from elsewhere than PyPI:
# docker build --secret id=pip.conf,src=pip.conf .
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CONFIG_FILE=/run/secrets/pip.conf
RUN python -m venv --without-pip /opt/bridge
WORKDIR /src
COPY pyproject.toml ./
# The dependencies alone, so that a change of the code does not fetch them again.
RUN --mount=type=secret,id=pip.conf \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/dependencies \
    && pip --python /opt/bridge/bin/python install --only-binary :all: -r /tmp/dependencies
COPY README.md LICENSE ./
COPY bridge bridge
RUN --mount=type=secret,id=pip.conf \
    pip --python /opt/bridge/bin/python install --no-deps .
COPY deploy/healthcheck.py /opt/bridge/bin/healthcheck

FROM python:${PYTHON}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="notify-bridge" \
      org.opencontainers.image.description="PostgreSQL NOTIFY to WebSocket clients through an ordered log in Redis" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/bridge /opt/bridge
# Reachable from outside the container, so `serve` wants a key for tokens, or BRIDGE_AUTH=none.
ENV PATH=/opt/bridge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 BRIDGE_HOST=0.0.0.0
WORKDIR /srv
USER 10001:10001
EXPOSE 8000 8001
# /health is 200 while the process works, also without Redis and PostgreSQL: what restarts the unhealthy must not restart for those.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=2s --retries=3 CMD ["healthcheck", "/health"]
ENTRYPOINT ["notify-bridge"]
CMD ["serve"]
