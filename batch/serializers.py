from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from batch.logs import MAX_BYTES
from batch.models import SUBJECT_COLUMNS, Attempt, Batch, BatchState, Item, Pause, StageName, Worker
from batch.parameters import ImagingParametersSerializer, ParametersSerializer
from batch.services import MAX_KEY, MAX_PRIORITY, MOST_KEY_CHARACTERS, MOST_REASON_CHARACTERS
from contimg.api.errors import without_server_paths
from contimg.api.parameters import WholeNumberParameter
from contimg.api.serializers import FactsSerializer, StrictSerializer, TextField, WordField
from provenance.serializers import QuarantineSerializer

MOST_SUBJECTS_IN_A_BODY = 100_000
MOST_WRONG_SUBJECTS_NAMED = 20
USUAL_TAIL_BYTES = 65_536
MOST_BYTES_ASKED = 10**15
MOST_ATTEMPTS = 2**31 - 1  # of the column


class CountsSerializer(serializers.Serializer):
    """How many items are in each state."""

    waiting = serializers.IntegerField(source="n_waiting")
    ready = serializers.IntegerField(source="n_ready")
    running = serializers.IntegerField(source="n_running")
    done = serializers.IntegerField(source="n_done")
    failed = serializers.IntegerField(source="n_failed")
    cancelled = serializers.IntegerField(source="n_cancelled")
    quarantined = serializers.IntegerField(source="n_quarantined")
    total = serializers.IntegerField(source="n_total")


class BatchSerializer(FactsSerializer):
    """`eta_s` comes from the context, where the view puts the estimates of all batches it shows."""

    state = serializers.ChoiceField(BatchState.choices)
    owner = serializers.CharField(source="owner.username", allow_null=True, default=None)
    counts = CountsSerializer(source="*")
    progress = serializers.FloatField(help_text="The share of items that have ended, 0 to 1.")
    eta_s = serializers.SerializerMethodField(
        help_text="Seconds, from the medians of past attempts; null while a stage has never been run, and while all "
        "that is left waits for something."
    )

    class Meta:
        model = Batch
        fields = [
            "id", "stage", "state", "parameters", "priority", "idempotency_key", "owner", "created_at", "started_at",
            "finished_at", "counts", "progress", "eta_s",
        ]  # fmt: skip

    def get_eta_s(self, batch: Batch) -> float | None:
        return self.context["eta_s"][batch.pk]


class BatchDetailSerializer(BatchSerializer):
    class Meta(BatchSerializer.Meta):
        fields = [*BatchSerializer.Meta.fields, "query", "changed_at"]


class ItemSubjectSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(list(SUBJECT_COLUMNS), source="subject_kind")
    id = serializers.IntegerField(source="subject_id")

    class Meta:
        ref_name = "ItemSubject"


# Of these the text is that of whatever broke, and may hold anything.
FOR_THE_PUBLIC = {
    "internal_error": "A fault of contimg or of a library; the log of the attempt has it.",
    "database_unavailable": "The database did not answer, or cut the connection; it is tried again.",
    "worker_unwell": "The worker that had it could not work then; it is tried again.",
}


class ItemErrorSerializer(serializers.Serializer):
    """Admin, console and log have the whole text. The API has no server's path, and to the public says less."""

    code = serializers.CharField(source="error_code")
    detail = serializers.SerializerMethodField()

    class Meta:
        ref_name = "ItemError"

    def get_detail(self, row: Item | Attempt) -> str:
        detail = row.error_detail
        if row.error_code in FOR_THE_PUBLIC:
            is_inside = self.context.get("is_inside", False)
            detail = detail.partition("\n")[0] if is_inside else FOR_THE_PUBLIC[row.error_code]
        return without_server_paths(detail)

    def get_attribute(self, instance: Any) -> Any:
        return instance if instance.error_code else None


class ItemSerializer(FactsSerializer):
    subject = ItemSubjectSerializer(source="*")
    error = ItemErrorSerializer(allow_null=True, help_text="Why it waits or did not succeed.")

    class Meta:
        model = Item
        fields = [
            "id", "batch", "stage", "subject", "state", "attempt", "worker", "progress", "priority", "error", "after",
            "not_before", "created_at", "started_at", "finished_at",
        ]  # fmt: skip


class EvidenceEntrySerializer(serializers.Serializer):
    """Of a file (or a catalogue, or a verdict) that an attempt read or wrote."""

    kind = serializers.CharField()
    id = serializers.IntegerField(required=False)
    name = serializers.CharField()
    size_bytes = serializers.IntegerField(required=False, allow_null=True)
    checksum = serializers.CharField()


class EvidenceSerializer(serializers.Serializer):
    inputs = EvidenceEntrySerializer(many=True, required=False)
    outputs = EvidenceEntrySerializer(many=True, required=False)
    was_done_before = serializers.BooleanField(required=False)


class AttemptSerializer(FactsSerializer):
    error = ItemErrorSerializer(allow_null=True)
    evidence = serializers.SerializerMethodField(
        help_text="What it read and wrote. Null for who has no token, no session of staff and no trusted address."
    )

    class Meta:
        model = Attempt
        fields = [
            "number", "outcome", "worker", "started_at", "finished_at", "duration_s", "exit_code", "signal",
            "peak_memory_bytes", "cpu_s", "engine", "versions", "error", "evidence",
        ]  # fmt: skip

    @extend_schema_field(EvidenceSerializer(allow_null=True))
    def get_evidence(self, attempt: Attempt) -> dict[str, Any] | None:
        return attempt.evidence if self.context["is_inside"] else None


class ItemDetailSerializer(ItemSerializer):
    attempts = AttemptSerializer(many=True)

    class Meta(ItemSerializer.Meta):
        fields = [*ItemSerializer.Meta.fields, "attempts"]


class PauseSerializer(FactsSerializer):
    class Meta:
        model = Pause
        fields = ["id", "stage", "reason", "paused_by", "created_at"]


class WorkerSerializer(FactsSerializer):
    is_alive = serializers.BooleanField(help_text="It gave a sign of life within the last minute.")

    class Meta:
        model = Worker
        fields = ["id", "name", "host", "n_processes", "stages", "started_at", "seen_at", "stopped_at", "is_alive"]


# --- what is asked for -------------------------------------------------------------------------------------------
@extend_schema_field(ParametersSerializer)
class ParametersField(serializers.DictField):
    """Read by the service, which knows what a stage takes."""


class SubjectsField(serializers.ListField):
    """Only wrong ones meet the serializer, which takes seconds for 100 000."""

    def run_child_validation(self, data: list[Any]) -> list[Any]:
        subjects = list(data)
        wrong: dict[str, Any] = {}
        for position, subject in enumerate(subjects):
            if _is_subject(subject):
                continue
            try:
                subjects[position] = self.child.run_validation(subject)
            except serializers.ValidationError as error:
                wrong[str(position)] = error.detail
                if len(wrong) == MOST_WRONG_SUBJECTS_NAMED:
                    break
        if wrong:
            raise serializers.ValidationError(wrong)
        return subjects


def _is_subject(value: Any) -> bool:
    """Whether the serializer would give it back as it is; of any other it says what is wrong."""
    return (
        type(value) is dict
        and value.keys() == {"kind", "id"}
        and type(value["kind"]) is str
        and value["kind"] in SUBJECT_COLUMNS
        and type(value["id"]) is int
        and 1 <= value["id"] <= MAX_KEY
    )


class NewBatchSerializer(StrictSerializer):
    """Either `subjects` or `query`. Types only: what the words mean `batch.services.create_batch` says."""

    class Subject(StrictSerializer):
        kind = WordField(SUBJECT_COLUMNS, help_text="It depends on the stage.")
        id = serializers.IntegerField(min_value=1, max_value=MAX_KEY)

        class Meta:
            ref_name = "NewBatchSubject"

    stage = WordField(StageName.choices)
    subjects = SubjectsField(child=Subject(), required=False, max_length=MOST_SUBJECTS_IN_A_BODY)
    query = serializers.DictField(
        required=False, help_text="`kind`, and filters named and written as those of the list of that kind."
    )
    parameters = ParametersField(required=False, default=dict)
    priority = serializers.IntegerField(
        required=False, default=0, help_text=f"From {-MAX_PRIORITY} to {MAX_PRIORITY}; higher runs first."
    )
    idempotency_key = TextField(
        required=False, allow_null=True, default=None, max_length=MOST_KEY_CHARACTERS,
        help_text="The same key with the same request gives the batch that was made first.",
    )  # fmt: skip


class AssessAgainSerializer(StrictSerializer):
    """Either `subjects` or `query`, as of a batch of the stage `assess`."""

    subjects = SubjectsField(child=NewBatchSerializer.Subject(), required=False, max_length=MOST_SUBJECTS_IN_A_BODY)
    query = serializers.DictField(required=False)


@extend_schema_field(ImagingParametersSerializer)
class ImagingParametersField(serializers.DictField):
    """As above."""


class ReimageSerializer(StrictSerializer):
    parameters = ImagingParametersField(
        required=False, default=dict, help_text="Of the stage `image`; the settings' where none is given."
    )


class PrioritySerializer(StrictSerializer):
    priority = serializers.IntegerField(min_value=-MAX_PRIORITY, max_value=MAX_PRIORITY)


PAUSED = [choice for choice in StageName.choices if choice[0] != StageName.PROCESS]


class NewPauseSerializer(StrictSerializer):
    stage = WordField(PAUSED, allow_blank=True, help_text="Empty: all stages.")
    reason = TextField(required=False, default="", allow_blank=True, max_length=MOST_REASON_CHARACTERS)


class EventSerializer(serializers.Serializer):
    """One of the events of a stream; they are in the format of server-sent events, not in JSON."""

    id = serializers.CharField(help_text="To go on after it: `Last-Event-ID`.")
    event = serializers.ChoiceField(["batch", "item", "log", "end"])
    data = serializers.CharField(  # type: ignore[assignment]
        help_text="JSON: the batch, the item, lines of a log, or the batch's last state."
    )


class LogAskedSerializer(serializers.Serializer):
    attempt = WholeNumberParameter(
        required=False, min_value=0, max_value=MOST_ATTEMPTS, help_text="By default the newest."
    )
    tail = WholeNumberParameter(
        min_value=0, max_value=MOST_BYTES_ASKED, default=USUAL_TAIL_BYTES,
        help_text=f"The last so many bytes, of which {MAX_BYTES} are answered at most.",
    )  # fmt: skip
    offset = WholeNumberParameter(
        required=False, min_value=0, max_value=MOST_BYTES_ASKED,
        help_text="On from this byte; `next_offset` of the last answer.",
    )  # fmt: skip


class LogSerializer(serializers.Serializer):
    """A piece of an attempt's log. Ask again with `offset=next_offset` to follow it until `is_final`."""

    attempt = serializers.IntegerField()
    offset = serializers.IntegerField()
    next_offset = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    is_final = serializers.BooleanField(help_text="The attempt has ended and this is the end of its log.")
    text = serializers.CharField()


class QuarantineMadeSerializer(QuarantineSerializer):
    """With the batches that compute again what was withdrawn."""

    batches = serializers.ListField(child=serializers.IntegerField(), read_only=True)

    class Meta(QuarantineSerializer.Meta):
        fields = [*QuarantineSerializer.Meta.fields, "batches"]


class NotRebuiltSerializer(serializers.Serializer):
    subband_group = serializers.IntegerField(source="tile.pk")
    name = serializers.CharField(source="tile.name")
    reason = serializers.CharField()


class PlanSerializer(serializers.Serializer):
    tiles = serializers.ListField(child=serializers.IntegerField(), help_text="Subband groups.")
    epochs = serializers.ListField(child=serializers.IntegerField(), help_text="Whose mosaics are made again.")
    not_rebuilt = NotRebuiltSerializer(many=True)


class BatchesSerializer(serializers.Serializer):
    batches = serializers.ListField(child=serializers.IntegerField())


class ActivatedSerializer(serializers.Serializer):
    """The policy that judges from now on, and the work that follows."""

    policy = serializers.IntegerField(source="policy.pk")
    batches = serializers.SerializerMethodField(help_text="They judge the current images again.")
    n_tables = serializers.IntegerField(help_text="Calibration tables, judged again at once.")

    def get_batches(self, activated: Any) -> list[int]:
        return [batch.pk for batch in activated.batches]
