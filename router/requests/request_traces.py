"""OpenTelemetry spans of requests: one of the gateway, and below it queue, prefill and decode. The instance's own spans
hang below the gateway's, whose context goes to it as W3C traceparent. Names and attributes are OpenTelemetry's
conventions for HTTP and generative AI where there are any."""

import time
from collections.abc import Callable

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dualmap.router.apis.routes import route
from dualmap.router.http.openai_errors import HttpError
from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.asked import Arrived, Prompt
from dualmap.router.requests.driven import Driven, Run
from dualmap.router.requests.replay import Replay
from dualmap.router.requests.rest import Rest

NS = 1e9
CONTEXT_FIELDS = ("traceparent", "tracestate")
FIRST_SERVER_ERROR_STATUS = 500


class RequestTraces:
    """See RequestWatcher. clock: that of the requests."""

    def __init__(self, processor: SpanProcessor, gateway_id: str, sample: float, clock: Callable[[], float]) -> None:
        """sample: share of the traces that begin here; those that come with a parent are kept as it says."""
        resource = Resource.create({"service.name": "dualmap", "service.instance.id": gateway_id})
        sampler = ParentBased(TraceIdRatioBased(sample))
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("dualmap")
        self._propagator = TraceContextTextMapPropagator()
        self._epoch_ns = time.time_ns() - int(clock() * NS)
        self._clock = clock
        self._spans: dict[str, Span] = {}  # by request

    def close(self) -> None:
        """What has ended is exported, for as long as the exporter may take."""
        self._provider.shutdown()

    def begun(self, arrived: Arrived) -> None:
        http = arrived.http
        carrier: dict[str, str] = {}
        kept = []
        for line in http.forwarded:
            name, _, value = line.partition(b":")
            if (field := name.decode("latin-1").lower()) in CONTEXT_FIELDS:
                carrier[field] = value.strip().decode("latin-1")
            else:
                kept.append(line)
        http_route = route(http.path)
        span = self._tracer.start_span(
            f"{http.method} {http_route}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=self._ns(arrived.at),
            attributes={"http.request.method": http.method, "http.route": http_route, "url.path": http.path},
        )
        if operation := arrived.api.operation:
            span.set_attribute("gen_ai.operation.name", operation)
        told: dict[str, str] = {}
        self._propagator.inject(told, set_span_in_context(span))
        http.forwarded = [*kept, *(f"{name}: {value}\r\n".encode() for name, value in told.items())]
        self._spans[arrived.id] = span

    def refused(self, arrived: Arrived, prompt: Prompt | None, error: HttpError) -> None:
        span = self._spans.pop(arrived.id, None)
        if span is None:
            return
        end = self._clock()
        if span.is_recording():
            self._describe(span, arrived, prompt, Outcome.CLIENT_ERROR, error.status)
            self._add_phases(span, arrived, None, end)
        span.end(self._ns(end))

    def ended(self, driven: Driven, outcome: Outcome, status: int) -> None:
        arrived, run = driven.arrived, driven.running
        span = self._spans.pop(arrived.id, None)
        if span is None:
            return
        end = self._clock()
        if span.is_recording():
            self._describe(span, arrived, driven.asked.prompt, outcome, status)
            if driven.asked.request.tenant:
                span.set_attribute("dualmap.tenant", driven.asked.request.tenant)
            if run is not None:
                self._describe_run(span, run)
            if driven.handoff is not None:
                span.set_attribute("dualmap.prefill_instance", driven.handoff.dispatch.instance_id)
            if driven.rest is not None:
                span.set_attribute("dualmap.continued", driven.rest.number)
            self._add_phases(span, arrived, run, end, driven.rest)
        span.end(self._ns(end))

    def _describe(self, span: Span, arrived: Arrived, prompt: Prompt | None, outcome: Outcome, status: int) -> None:
        span.set_attribute("dualmap.outcome", outcome.value)
        span.set_attribute("dualmap.request_id", arrived.request_id.decode("latin-1"))
        if prompt is not None and prompt.model:
            span.set_attribute("gen_ai.request.model", prompt.model)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= FIRST_SERVER_ERROR_STATUS or outcome in (Outcome.FAILED, Outcome.FAILED_STREAM):
            span.set_status(Status(StatusCode.ERROR, outcome.value))

    def _describe_run(self, span: Span, run: Run) -> None:
        dispatch, usage = run.dispatch, run.usage()
        span.set_attribute("dualmap.instance", dispatch.instance_id)
        span.set_attribute("dualmap.reason", dispatch.reason.value)
        span.set_attribute("dualmap.attempts", dispatch.attempt)
        span.set_attribute("dualmap.estimated_ttft_s", dispatch.estimated_ttft_s)
        for name, tokens in (
            ("gen_ai.usage.input_tokens", usage.prompt_tokens),
            ("gen_ai.usage.output_tokens", usage.completion_tokens),
            ("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
        ):
            if tokens is not None:
                span.set_attribute(name, tokens)

    def _add_phases(
        self, span: Span, arrived: Arrived, run: Run | None, end: float, rest: Rest | Replay | None = None
    ) -> None:
        """Of the attempt that began the answer: until its first byte all before it counts as queue."""
        began = None if run is None else (run.dispatch.queued_s, run.first_byte_at)
        if rest is not None:
            began = rest.queued_s, rest.began_at
        sent = end if began is None else arrived.at + began[0]
        phases = [("queue", arrived.at, sent)]
        if began is not None:
            phases.append(("prefill", sent, began[1] or end))
            if began[1]:
                phases.append(("decode", began[1], end))
        context = set_span_in_context(span)
        for name, start, stop in phases:
            child = self._tracer.start_span(name, context=context, start_time=self._ns(start))
            child.end(self._ns(max(start, stop)))

    def _ns(self, at: float) -> int:
        return self._epoch_ns + int(at * NS)


def otlp_traces(endpoint: str | None, gateway_id: str, sample: float, clock: Callable[[], float]) -> RequestTraces:
    """Exported as JSON over HTTP. endpoint: None: as OTEL_EXPORTER_OTLP_ENDPOINT says. Needs dualmap[otel]; raises
    ImportError without it."""
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter

    return RequestTraces(BatchSpanProcessor(OTLPSpanExporter(endpoint)), gateway_id, sample, clock)
