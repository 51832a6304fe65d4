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

from dualmap.router.apis.routes import Route
from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.driven import Driven

NS = 1e9
OPERATIONS = {Route.CHAT: "chat", Route.COMPLETION: "text_completion"}
CONTEXT_FIELDS = ("traceparent", "tracestate")
FIRST_SERVER_ERROR_STATUS = 500


class RequestTraces:
    """See RequestWatcher. clock: that of the exchanges."""

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
        self._spans: dict[str, Span] = {}  # by exchange

    def close(self) -> None:
        """What has ended is exported, for as long as the exporter may take."""
        self._provider.shutdown()

    def begun(self, exchange: Driven, route: Route) -> None:
        request = exchange.request
        carrier: dict[str, str] = {}
        kept = []
        for line in request.forwarded:
            name, _, value = line.partition(b":")
            if (field := name.decode("latin-1").lower()) in CONTEXT_FIELDS:
                carrier[field] = value.strip().decode("latin-1")
            else:
                kept.append(line)
        span = self._tracer.start_span(
            f"{request.method} {request.path}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=self._ns(exchange.arrived_at),
            attributes={"http.request.method": request.method, "url.path": request.path},
        )
        if operation := OPERATIONS.get(route):
            span.set_attribute("gen_ai.operation.name", operation)
        told: dict[str, str] = {}
        self._propagator.inject(told, set_span_in_context(span))
        request.forwarded = [*kept, *(f"{name}: {value}\r\n".encode() for name, value in told.items())]
        self._spans[exchange.id] = span

    def ended(self, exchange: Driven, outcome: Outcome, status: int) -> None:
        span = self._spans.pop(exchange.id, None)
        if span is None:
            return
        end = self._clock()
        if span.is_recording():
            self._describe(span, exchange, outcome, status)
            self._add_phases(span, exchange, end)
        span.end(self._ns(end))

    def _describe(self, span: Span, exchange: Driven, outcome: Outcome, status: int) -> None:
        span.set_attribute("dualmap.outcome", outcome.value)
        span.set_attribute("dualmap.request_id", exchange.request_id.decode("latin-1"))
        if exchange.model:
            span.set_attribute("gen_ai.request.model", exchange.model)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= FIRST_SERVER_ERROR_STATUS or outcome in (Outcome.FAILED, Outcome.FAILED_STREAM):
            span.set_status(Status(StatusCode.ERROR, outcome.value))
        if exchange.asked is not None and exchange.asked.tenant:
            span.set_attribute("dualmap.tenant", exchange.asked.tenant)
        if (dispatch := exchange.dispatch) is not None:
            span.set_attribute("dualmap.instance", dispatch.instance_id)
            span.set_attribute("dualmap.reason", dispatch.reason.value)
            span.set_attribute("dualmap.attempts", dispatch.attempt)
            span.set_attribute("dualmap.estimated_ttft_s", dispatch.estimated_ttft_s)
        usage = exchange.usage()
        for name, tokens in (
            ("gen_ai.usage.input_tokens", usage.prompt_tokens),
            ("gen_ai.usage.output_tokens", usage.completion_tokens),
            ("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
        ):
            if tokens is not None:
                span.set_attribute(name, tokens)

    def _add_phases(self, span: Span, exchange: Driven, end: float) -> None:
        """Of the last attempt: until its first byte all before it counts as queue."""
        dispatch, first = exchange.dispatch, exchange.first_byte_at
        sent = end if dispatch is None else exchange.arrived_at + dispatch.queued_s
        phases = [("queue", exchange.arrived_at, sent)]
        if dispatch is not None:
            phases.append(("prefill", sent, first or end))
        if first:
            phases.append(("decode", first, end))
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
