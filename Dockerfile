# The serving image: no torch, no compiler, an ordinary user.
#   docker build -t prorec-serve .
#   docker build -t prorec-serve:gpu --build-arg EXTRAS=[gpu,text,int8] .      (then: docker run --gpus all …)
FROM python:3.12-slim

# text: new items given as text; int8: PROREC_PRECISION=int8, and fp16 on a GPU.
ARG EXTRAS="[text,int8]"
WORKDIR /app
COPY pyproject.toml README.md ./
COPY models models
COPY service service
COPY training training
# What was downloaded once stays with the builder, so that a change of the sources downloads nothing.
RUN --mount=type=cache,target=/root/.cache/pip pip install ".${EXTRAS}"

RUN useradd --create-home --uid 10001 prorec && mkdir /data && chown prorec /data
USER prorec
# A folder without the sources, so that what runs is what was installed.
WORKDIR /data
ENV PROREC_HOST=0.0.0.0 PROREC_PORT=8000 PROREC_DATA_DIR=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", "import httpx, os; httpx.get(f'http://127.0.0.1:{os.environ[\"PROREC_PORT\"]}/health/live').raise_for_status()"]
CMD ["python", "-m", "service"]
