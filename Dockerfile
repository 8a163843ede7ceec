# The server with the bundled models, computed by ONNX Runtime on the processor; docs/serve.md has the command to run it.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src src
RUN python -m venv /opt/refseg && /opt/refseg/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.13-slim
COPY --from=build /opt/refseg /opt/refseg
RUN useradd --create-home refseg
USER refseg
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["/opt/refseg/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
# All addresses of the container; which of the host's reach it, `docker run -p` says.
ENTRYPOINT ["/opt/refseg/bin/refseg", "serve", "--host", "0.0.0.0"]
