# The server with the bundled models, computed by ONNX Runtime on the processor; docs/serve.md has the command to run it.
ARG PYTHON=3.13.9-slim-trixie

FROM python:${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src src
RUN python -m venv /opt/refseg && /opt/refseg/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:${PYTHON}
COPY --from=build /opt/refseg /opt/refseg
RUN useradd --uid 1000 --create-home refseg
# A number, by which Kubernetes sees that it is not root.
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["/opt/refseg/bin/python", "-c", "from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', 8000); c.request('GET', '/ready'); raise SystemExit(c.getresponse().status != 200)"]
# All addresses of the container; which of the host's reach it, `docker run -p` says.
ENTRYPOINT ["/opt/refseg/bin/refseg", "serve", "--host", "0.0.0.0"]
