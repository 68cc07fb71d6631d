# CPU: docker build -t vader .          CUDA: docker build -t vader --build-arg TORCH=cu128 .
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# cpu, or a CUDA version that PyTorch has wheels for. The CUDA libraries come with the wheels; the host brings the driver.
ARG TORCH=cpu
ARG PLUGINS="vader-demo vader-rewards vader-diffusers"
# hatch-vcs reads the version from git, which is not copied into the image.
ARG VERSION=0.1.0.dev0

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} HF_HOME=/work/huggingface
RUN pip install torch --index-url https://download.pytorch.org/whl/${TORCH}

COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY vader_core /src/vader_core
COPY plugins /src/plugins
RUN pip install /src && for plugin in ${PLUGINS}; do pip install /src/plugins/$plugin || exit 1; done && rm -rf /src

RUN useradd --create-home vader && mkdir -p /work/runs && chown -R vader /work
USER vader
WORKDIR /work
ENTRYPOINT []
CMD ["vader", "doctor"]
