# meap on NVIDIA's PyTorch image: docker build -t meap .    (docs/container.md has the versions and how to run it)
#
# torch, Transformer Engine, Apex and everything else built against the image's CUDA stay as they came: their versions are
# written into a pip constraint file first, pip cannot install others, and the step that installs fails if one changed.

FROM nvcr.io/nvidia/pytorch:26.07-py3 AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

FROM base AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY csrc csrc
COPY meap_megatron meap_megatron
COPY examples examples
# The image's own constraints would bind setuptools and pybind11 of the build too, which nothing keeps.
RUN PIP_CONSTRAINT="" python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM base
ENV MEAP_IMAGE_VERSIONS=/opt/meap/image.txt
COPY constraints.txt meap_megatron/doctor/image.py /opt/meap/
RUN python /opt/meap/image.py write /opt/meap/image.txt --tested /opt/meap/constraints.txt

# From here on also for whoever builds on this image or calls pip in a container.
ENV PIP_CONSTRAINT=/opt/meap/image.txt
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    printf '%s[eval]\nnvidia-dali-cuda130>=2.0\n' /wheels/*.whl > /tmp/requirements.txt && \
    python -m pip install --no-cache-dir --requirement /tmp/requirements.txt && \
    rm /tmp/requirements.txt && \
    python /opt/meap/image.py check /opt/meap/image.txt

# A home that any user id can write: docker run --user "$(id -u):$(id -g)" has no entry in /etc/passwd.
RUN useradd --uid 10001 --create-home --shell /bin/bash meap && chmod 1777 /home/meap
ENV HOME=/home/meap USER=meap
USER 10001
WORKDIR /workspace

HEALTHCHECK --interval=5m --timeout=30s --start-period=30s --retries=2 CMD ["meap", "doctor", "--quick"]
# NVIDIA's script puts the CUDA compatibility libraries in place for older drivers, then runs what follows.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "meap"]
CMD ["--help"]
