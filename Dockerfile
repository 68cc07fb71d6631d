# PyPI's torch, CUDA included: docker build -t vader .     Another build of torch: --build-arg TORCH_INDEX=URL, the
# index that pytorch.org names for it.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# Left out, PyPI's torch: its CUDA libraries come with the wheels; the host brings the driver.
ARG TORCH_INDEX
ARG PLUGINS="vader-demo vader-rewards vader-diffusers"
# hatch-vcs reads the version from git, which is not copied into the image.
ARG VERSION=0.1.0

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} HF_HOME=/srv/vader/huggingface
RUN pip install torch ${TORCH_INDEX:+--index-url ${TORCH_INDEX}}

COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY vader_core /src/vader_core
COPY plugins /src/plugins
RUN pip install /src && for plugin in ${PLUGINS}; do pip install /src/plugins/$plugin || exit 1; done && rm -rf /src

RUN useradd --create-home vader && mkdir -p /srv/vader/runs && chown -R vader /srv/vader
USER vader
WORKDIR /srv/vader
ENTRYPOINT []
CMD ["vader", "doctor"]
