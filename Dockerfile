# rbl on the CPU, for pipelines:
#   docker build -t rbl .
#   docker run --rm -v "$PWD:/work" rbl run grid.yaml --out runs/candidate
#   docker build --target serve -t rbl-serve . && docker run --rm -p 127.0.0.1:8000:8000 rbl-serve zoo:signs-plain
# The mounted folder must be writable for user 1000, or pass --user "$(id -u):$(id -g)".
FROM python:3.12-slim-bookworm AS base

# The builds of torch in the default index bring CUDA along, which a CPU does not need.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV HOME=/home/rbl \
    PYTHONDONTWRITEBYTECODE=1 \
    RBL_CACHE=/home/rbl/cache
RUN useradd --create-home --home-dir /home/rbl --uid 1000 rbl \
    && mkdir /home/rbl/cache /work \
    && chmod 0777 /home/rbl /home/rbl/cache \
    && chown rbl:rbl /work

WORKDIR /opt/rbl
COPY constraints.txt ./
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt torch torchvision
COPY LICENSE README.md pyproject.toml ./
COPY attacks attacks
COPY defenses defenses
COPY robustbench_local robustbench_local
RUN pip install --no-cache-dir -c constraints.txt .

# The application: rbl serve, with what it needs besides.
FROM base AS serve
RUN pip install --no-cache-dir -c constraints.txt '.[web]'
USER 1000
WORKDIR /work
ENV RBL_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["rbl", "serve"]
CMD ["--help"]

# A node of a Ray cluster: clusters/ray-compose.yaml, clusters/ray-kubernetes.yaml.
FROM base AS ray
RUN pip install --no-cache-dir -c constraints.txt '.[ray]'
USER 1000
WORKDIR /work
ENV RAY_USAGE_STATS_ENABLED=0
CMD ["ray", "start", "--help"]

FROM base
USER 1000
WORKDIR /work
ENTRYPOINT ["rbl"]
CMD ["--help"]
