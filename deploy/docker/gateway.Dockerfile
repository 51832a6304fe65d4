# docker build -f deploy/docker/gateway.Dockerfile -t dualmap/gateway:0.1.0 .
FROM python:3.11-slim AS build
RUN apt-get update -qq && apt-get install -qq --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src src
COPY scheduler scheduler
COPY router router
COPY instances instances
COPY loadtest loadtest
COPY deploy deploy
RUN python -m venv /opt/dualmap \
    && DUALMAP_COMPILE=1 /opt/dualmap/bin/pip install --no-cache-dir '.[picker,kubernetes]'

FROM python:3.11-slim
RUN useradd --uid 1000 --create-home dualmap
COPY --from=build /opt/dualmap /opt/dualmap
ENV PATH=/opt/dualmap/bin:$PATH RAY_USAGE_STATS_ENABLED=0
USER 1000
EXPOSE 8080 8081 9002
ENTRYPOINT ["dualmap"]
CMD ["up", "/etc/dualmap/dualmap.yaml"]
