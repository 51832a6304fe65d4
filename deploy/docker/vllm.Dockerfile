# A Ray node with vLLM and DualMap, for deploy/kuberay: its actors start `vllm serve` here.
# docker build -f deploy/docker/vllm.Dockerfile -t dualmap/vllm:0.1.0 .
FROM vllm/vllm-openai:v0.32.0
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src src
COPY scheduler scheduler
COPY router router
COPY instances instances
COPY loadtest loadtest
COPY deploy/kuberay/serve_app.py /opt/dualmap/serve_app.py
# The image's own packages stay as they are: what vLLM was built with wins.
RUN pip install --no-cache-dir '.[picker]' 'ray[serve]>=2.50,<2.61' && useradd --uid 1000 --create-home dualmap
ENV PYTHONPATH=/opt/dualmap RAY_USAGE_STATS_ENABLED=0
USER 1000
ENTRYPOINT []
CMD ["bash"]
