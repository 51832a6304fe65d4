"""How long answers are: what a request will take of the KV cache, and for how long it will decode."""

from dualmap.scheduler.request import Request

FIRST_GUESS_TOKENS = 256.0  # before any answer was seen
MEMORY = 0.02  # weight of each answer in the mean: the last 50 or so count


class AnswerLengths:
    def __init__(self) -> None:
        self.mean_tokens = FIRST_GUESS_TOKENS

    def observe(self, output_tokens: int) -> None:
        """An answer is complete. One without tokens was an error and says nothing of the length of answers."""
        if output_tokens:
            self.mean_tokens += MEMORY * (output_tokens - self.mean_tokens)

    def expected(self, request: Request) -> int:
        """Tokens: as many as answers have been having, or as the client allowed."""
        mean = int(self.mean_tokens)
        return min(mean, request.max_output_tokens) if request.max_output_tokens else mean
