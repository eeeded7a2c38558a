"""The work behind the API: from uploads to predictions, attacks and certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from robustbench_local.data.decode import IMAGE_FORMATS
from robustbench_local.serving.analysis_process import Analyst
from robustbench_local.serving.attack_query import AttackQuery
from robustbench_local.serving.batch_queue import BatchQueue
from robustbench_local.serving.drift import DriftMonitor
from robustbench_local.serving.image_upload import Upload, decode_upload
from robustbench_local.serving.kept_images import ImageFolder
from robustbench_local.serving.metrics import ServingMetrics
from robustbench_local.serving.prediction import Answer, encode_png, read_answers
from robustbench_local.serving.problems import ProblemError
from robustbench_local.serving.request_images import BODY_BUDGET_BYTES, ByteBudget
from robustbench_local.serving.request_log import log_event
from robustbench_local.serving.served_model import PreparedImage, ServedModel
from robustbench_local.serving.serving_options import ServingOptions
from robustbench_local.serving.stress import CertifyRequest, StressRequest

_DECODING_THREADS = 2
_SQUARE_QUERIES_PER_STEP = 20


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """What ``/predict`` is asked besides the images."""

    top: int
    """Number of classes to list."""
    includes_input: bool
    """Whether the image as the model sees it is part of the answer."""
    compares: bool
    """Whether the model beside it answers, too."""
    request_id: str
    """Name of the request in logs and in the folder of kept images."""


class Application:
    """Predicts, attacks and certifies uploaded images.

    Args:
        models: The served model, and the one beside it if there is any.
        options: The limits.
        analyst: Attacks and certifies; None if that is switched off.
        monitor: The monitor of drift; None without a reference.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        options: ServingOptions,
        *,
        analyst: Analyst | None = None,
        monitor: DriftMonitor | None = None,
    ) -> None:
        self.models, self.options, self.analyst, self.monitor = tuple(models), options, analyst, monitor
        self.metrics, self.budget = (
            ServingMetrics(),
            ByteBudget(max(BODY_BUDGET_BYTES, options.max_body_bytes)),
        )
        self.folder = None if options.keep_images is None else ImageFolder(options.keep_images)
        self._decoders = ThreadPoolExecutor(_DECODING_THREADS, thread_name_prefix="decode")
        self._predictor = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.queues: dict[str, BatchQueue] = {}
        if monitor is not None:
            self.metrics.track_drift(monitor)

    @property
    def model(self) -> ServedModel:
        """The served model."""
        return self.models[0]

    @property
    def comparison(self) -> ServedModel | None:
        """The model beside it."""
        return self.models[1] if len(self.models) > 1 else None

    def start(self) -> None:
        """Start the queues; the event loop has to run."""
        for model in self.models:
            batches = self.metrics.batch_images.labels(model.name)
            queue = BatchQueue(
                model.compute_logits,
                self._predictor,
                max_batch=self.options.max_batch,
                max_wait_seconds=self.options.max_wait_seconds,
                max_waiting=self.options.max_queue,
                observe_batch=batches.observe,
            )
            self.metrics.track_queue(model.name, lambda queue=queue: queue.waiting_count)  # type: ignore[misc]
            queue.start()
            self.queues[model.name] = queue

    async def stop(self) -> None:
        """Stop queues, threads and the process of the attacks."""
        for queue in self.queues.values():
            await queue.stop()
        if self.analyst is not None:
            await self.analyst.stop()
        for executor in (self._decoders, self._predictor):
            executor.shutdown(wait=False, cancel_futures=True)

    def is_ready(self) -> bool:
        """Return True if a further image would be accepted."""
        limit = self.options.max_queue
        return bool(self.queues) and all(queue.waiting_count < limit for queue in self.queues.values())

    async def predict_images(self, uploads: Sequence[Upload], request: PredictionRequest) -> dict[str, Any]:
        """Predict uploaded images.

        Args:
            uploads: The files.
            request: What is asked besides.

        Returns:
            For JSON, see `api_schema.PredictResponse`.

        Raises:
            ProblemError: If a file is not usable, or too much waits.
        """
        model = self.model
        queue = self.queues[model.name]
        queue.check_room(len(uploads))
        asked = self.models if request.compares else self.models[:1]
        prepared, *others = await self._prepare_uploads(uploads, asked)
        answers = await self._answer_images(model, prepared)
        compared: list[Answer] | None = None
        if others and self.comparison is not None:
            compared = await self._answer_images(self.comparison, others[0])
        unusual = await self._monitor_images(prepared, answers)
        rows: list[dict[str, Any]] = []
        for place, (image, answer) in enumerate(zip(prepared, answers, strict=True)):
            other = None if compared is None else compared[place].to_json(model.class_names, request.top)
            shown = encode_png(image.tensor[0]) if request.includes_input else None
            rows.append(
                {
                    "prediction": answer.to_json(model.class_names, request.top),
                    "comparison": other,
                    "input": {
                        "height": model.size[0],
                        "width": model.size[1],
                        "notes": list(image.notes),
                        "enlarged": image.is_enlarged,
                        "out_of_range": unusual[place],
                        "png": shown,
                    },
                }
            )
        if self.folder is not None:
            self.folder.add_images(request.request_id, uploads, [row["prediction"] for row in rows])
        return {
            "model": model.name,
            "digest": model.digest,
            "comparison": None if compared is None or self.comparison is None else self.comparison.name,
            "images": rows,
        }

    async def attack_image(self, upload: Upload, query: AttackQuery) -> dict[str, Any]:
        """Attack an uploaded image on every model.

        Args:
            upload: The file.
            query: The attack.

        Returns:
            For JSON, see `api_schema.AttackResults`.

        Raises:
            ProblemError: If the file or the attack is not usable, or too much waits.
        """
        prepared = await self._prepare_uploads([upload], self.models)
        tensors = {model.name: images[0].tensor for model, images in zip(self.models, prepared, strict=True)}
        steps = query.steps * _SQUARE_QUERIES_PER_STEP if query.attack == "square" else query.steps
        request = StressRequest(
            images=tensors,
            attack=query.attack if query.is_ball else "corruption",  # type: ignore[arg-type]
            norm=query.threat if query.is_ball else "corruption",
            eps=query.eps,
            transformation="" if query.is_ball else query.threat,
            steps=steps,
            label=query.label,
            targets=query.targets if query.is_ball else (),
            seed=query.seed,
        )
        answer = await self._run_analysis(request)
        for result in answer["results"]:
            self.metrics.analyses.labels("attack", result["outcome"]).inc()
        return {"label_origin": "predicted" if query.label is None else "chosen", **answer}

    async def certify_image(self, upload: Upload) -> dict[str, Any]:
        """Certify the answer to an uploaded image.

        Raises:
            ProblemError: 404 if the model has no certificate; if the file is not usable, or too much waits.
        """
        if self.model.certificate is None:
            raise ProblemError(404, "the served model has no certificate; name one with --certificate")
        ((prepared,),) = await self._prepare_uploads([upload], [self.model])
        answer = await self._run_analysis(CertifyRequest(image=prepared.tensor))
        outcome = "certified" if answer["certified"] else "not certified"
        self.metrics.analyses.labels("certificate", outcome).inc()
        return answer

    async def _run_analysis(self, request: StressRequest | CertifyRequest) -> dict[str, Any]:
        if self.analyst is None:
            raise ProblemError(404, "attacks are switched off on this server")
        return await self.analyst.analyze_image(request)

    async def _prepare_uploads(
        self, uploads: Sequence[Upload], models: Sequence[ServedModel]
    ) -> list[list[PreparedImage]]:
        """Decode files and prepare them for models, off the event loop; the first unusable one fails all.

        Returns:
            For each model, its images.
        """
        loop = asyncio.get_running_loop()
        jobs = [
            loop.run_in_executor(self._decoders, prepare_upload, upload, models, self.options.max_pixels)
            for upload in uploads
        ]
        try:
            rows = [await job for job in jobs]
        except ProblemError:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            raise
        return [list(images) for images in zip(*rows, strict=True)]

    async def _answer_images(self, model: ServedModel, images: Sequence[PreparedImage]) -> list[Answer]:
        logits = await self.queues[model.name].submit(torch.cat([image.tensor for image in images]))
        answers = read_answers(model, logits)
        self.metrics.observe_answers(model.name, model.class_names, answers)
        return answers

    async def _monitor_images(
        self, images: Sequence[PreparedImage], answers: Sequence[Answer]
    ) -> list[list[str]]:
        """Count unusual images and test for drift; return each image's unusual statistics."""
        self.metrics.enlarged.inc(sum(image.is_enlarged for image in images))
        if self.monitor is None:
            return [[] for _ in images]
        loop, tensors = asyncio.get_running_loop(), torch.cat([image.tensor for image in images])
        unusual = await loop.run_in_executor(self._decoders, self.monitor.find_unusual_statistics, tensors)
        for name in (name for names in unusual for name in names):
            self.metrics.out_of_range.labels(name).inc()
        known = [answer.probabilities for answer in answers if answer.probabilities is not None]
        for test in await loop.run_in_executor(self._decoders, self.monitor.add_outputs, known):
            log_event(
                "drift" if test.is_alarm else "no drift",
                p_value=test.p_value,
                images=test.n,
                most_different_class=self.model.class_names[test.class_index],
            )
        return unusual

    def describe_state(self) -> dict[str, Any]:
        """Describe models, limits and monitoring for JSON; see `api_schema.ModelCards`."""
        options = self.options
        return {
            "model": describe_model(self.model),
            "comparison": None if self.comparison is None else describe_model(self.comparison),
            "limits": {
                "max_images": options.max_images,
                "max_body_bytes": options.max_body_bytes,
                "max_pixels": options.max_pixels,
                "formats": list(IMAGE_FORMATS),
                "attacks": self.analyst is not None,
                "max_attack_steps": options.max_attack_steps,
                "keeps_images": options.keep_images is not None,
            },
            "drift": None if self.monitor is None else self.monitor.to_json(),
            "version": metadata.version("robustbench-local"),
        }


def prepare_upload(upload: Upload, models: Sequence[ServedModel], max_pixels: int) -> list[PreparedImage]:
    """Decode a file and prepare it for each model; its pixels, which may be many, do not outlive the call.

    Raises:
        ProblemError: If the file is not usable.
    """
    image = decode_upload(upload, max_pixels)
    return [model.prepare_image(image) for model in models]


def describe_model(model: ServedModel) -> dict[str, Any]:
    """Describe a served model for JSON; see `api_schema.ModelCard`."""
    provenance = dict(model.classifier.provenance)
    measured = provenance.pop("measured", None) or []
    return {
        "name": model.name,
        "source": str(provenance.get("source", model.choice.source)),
        "digest": model.digest,
        "parameters": model.classifier.count_parameters(),
        "access": model.classifier.access,
        "classes": list(model.class_names),
        "can_reject": model.classifier.abstention is not None,
        "input": model.describe_input(),
        "certificate": None if model.certificate is None else dict(model.certificate.settings),
        "measured": [dict(row) for row in measured],
        "provenance": provenance,
        "notes": list(model.classifier.notes),
    }
