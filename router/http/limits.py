"""What one client, one request or one instance may take of the gateway, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Sizes in bytes, times in seconds. Times are checked each `sweep_interval_s`, so they end up to that much late."""

    max_head_bytes: int = 64 * 1024  # of a request's head: nginx and Envoy allow 32-60 KiB; bearer tokens can be long
    max_body_bytes: int = 16 * 1024 * 1024  # a million tokens of text, or a few images; also what a client can pin
    max_pipelined: int = 8  # requests read ahead of the one being answered; then the connection is not read
    max_connections: int = 16_384  # client connections of this process; above, 503 and close

    # Of plain answers above 1 MiB that are kept until they are whole, all together, on disk (TMPDIR): an instance that
    # dies in their midst costs nothing. What does not fit is relayed as it comes; 0: all of them are.
    max_spooled_bytes: int = 1024 * 1024 * 1024

    header_timeout_s: float = 10.0  # from first byte to complete head: a slow writer must not hold a connection
    body_timeout_s: float = 60.0  # from complete head to complete body: max_body_bytes at 280 KB/s
    idle_timeout_s: float = 75.0  # between a client's requests; above load balancers' 60 s, so that they close first
    write_timeout_s: float = 60.0  # a client that takes no byte for this long is gone, and blocks an instance's slot
    linger_s: float = 5.0  # after a refusal the rest of the request is read and dropped, else a reset would eat it

    connect_timeout_s: float = 2.0  # to an instance: three SYNs inside a data centre
    # Of an instance, to its first byte: a plain answer comes whole, after all its tokens. Also how long a stream may be
    # silent at most, whatever its instance does meanwhile.
    first_byte_timeout_s: float = 600.0
    # Between two pieces of an answer, while the instance is not seen to work either: vLLM can hang in mid-stream for
    # good. It is seen to work when /metrics tell of steps, or when other answers of it go on.
    stall_timeout_s: float = 60.0
    upstream_idle_s: float = 4.0  # of an unused connection to an instance; below uvicorn's 5 s, so that we close first
    max_upstream_idle: int = 256  # kept-alive connections to an instance; vLLM's default max_num_seqs

    sweep_interval_s: float = 0.5  # between checks of all times; a timer for each request would cost more
