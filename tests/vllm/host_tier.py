"""A tier in the host's memory for vLLM's CPU build, read by the server itself: what remembers blocks, evicts them and
tells of them is vLLM's own, and only its worker, which wants a GPU, is replaced by one that copies at once."""

from typing import Any

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec


class HostWorker(OffloadingWorker):
    def __init__(self, kv_caches: CanonicalKVCaches, chunks: int) -> None:
        self._pool = [cache.tensor for cache in kv_caches.tensors]
        self._host = [torch.empty((chunks, *tensor.shape[1:]), dtype=tensor.dtype) for tensor in self._pool]
        self._done: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, self._pool, src_spec, self._host, dst_spec)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, self._host, src_spec, self._pool, dst_spec)

    def get_finished(self) -> list[TransferResult]:
        done, self._done = self._done, []
        return done

    def wait(self, job_ids: set[int]) -> None:
        pass

    def _copy(self, job_id: int, source: list[Any], src_spec: Any, target: list[Any], dst_spec: Any) -> bool:
        """Blocks and chunks are of one size here."""
        src, dst = (torch.from_numpy(spec.block_ids).long() for spec in (src_spec, dst_spec))
        for read, written in zip(source, target, strict=True):
            written[dst] = read[src]
        self._done.append(TransferResult(job_id, True, transfer_size=1, transfer_time=1e-6))
        return True


class HostTier(CPUOffloadingSpec):
    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._worker is None:
            self._worker = HostWorker(kv_caches, self.num_chunks)
        return self._worker
