"""The event of the Gemini API: one type, which every event of a stream has.

Source: the REST reference v1beta (revision 20260413) and the vendor's own types (google-genai
3.6.1), and recordings. Every field is optional, and absent where it is 0, false or empty; a field
that is not declared is in `Event.raw`. The names of classes and fields are those of the vendor's
package. Enumerations are strings, so that a new word is not an error.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .base import Event

__all__ = [
    "AttributionSourceId",
    "AudioMetadata",
    "Blob",
    "Candidate",
    "Citation",
    "CitationMetadata",
    "CitationSource",
    "CodeExecutionResult",
    "Content",
    "DocumentMetadata",
    "ExecutableCode",
    "FileData",
    "FunctionCall",
    "FunctionResponse",
    "FunctionResponseBlob",
    "FunctionResponseFileData",
    "FunctionResponsePart",
    "GenerateContentResponse",
    "GenerateContentResponsePromptFeedback",
    "GenerateContentResponseUsageMetadata",
    "GoogleTypeDate",
    "GroundingAttribution",
    "GroundingChunk",
    "GroundingChunkCustomMetadata",
    "GroundingChunkImage",
    "GroundingChunkMaps",
    "GroundingChunkMapsPlaceAnswerSources",
    "GroundingChunkMapsPlaceAnswerSourcesAuthorAttribution",
    "GroundingChunkMapsPlaceAnswerSourcesReviewSnippet",
    "GroundingChunkMapsRoute",
    "GroundingChunkRetrievedContext",
    "GroundingChunkStringList",
    "GroundingChunkWeb",
    "GroundingMetadata",
    "GroundingMetadataSourceFlaggingUri",
    "GroundingPassageId",
    "GroundingSupport",
    "LogprobsResult",
    "LogprobsResultCandidate",
    "LogprobsResultTopCandidates",
    "ModalityTokenCount",
    "ModelStatus",
    "Part",
    "PartMediaResolution",
    "PartialArg",
    "RagChunk",
    "RagChunkPageSpan",
    "RetrievalMetadata",
    "SafetyRating",
    "SearchEntryPoint",
    "Segment",
    "SemanticRetrieverChunk",
    "SpeechMetadata",
    "SpreadsheetMetadata",
    "ToolCall",
    "ToolResponse",
    "Transcription",
    "UrlContextMetadata",
    "UrlMetadata",
    "VideoMetadata",
    "WordInfo",
]


class _Value(Struct, kw_only=True, rename="camel", repr_omit_defaults=True):
    """What an event consists of: shown without the fields that it does not have."""


class PartMediaResolution(_Value):
    """How closely a medium is looked at."""

    level: str | None = None
    num_tokens: int | None = None


class CodeExecutionResult(_Value):
    """What the code that the service ran has printed. `outcome` is OUTCOME_OK, OUTCOME_FAILED,
    ..."""

    outcome: str | None = None
    output: str | None = None
    id: str | None = None


class ExecutableCode(_Value):
    """Code that the model wrote and the service runs."""

    code: str | None = None
    language: str | None = None
    id: str | None = None


class FileData(_Value):
    """A file by its address."""

    display_name: str | None = None
    file_uri: str | None = None
    mime_type: str | None = None


class PartialArg(_Value):
    """A piece of a call's arguments (Vertex): the value at `json_path`, such as `$.a.b[0].c`.
    The pieces of a string add up."""

    bool_value: bool | None = None
    json_path: str | None = None
    null_value: str | None = None
    number_value: int | float | None = None
    string_value: str | None = None
    will_continue: bool | None = None


class FunctionCall(_Value):
    """A call of a function, whole, or a piece of one: it goes on while `will_continue` is
    true."""

    id: str | None = None
    args: Any = None
    name: str | None = None
    partial_args: list[PartialArg] | None = None
    will_continue: bool | None = None


class FunctionResponseBlob(_Value):
    """A medium in a function's output, in base64."""

    mime_type: str | None = None
    data: str | None = None
    display_name: str | None = None


class FunctionResponseFileData(_Value):
    """A file in a function's output, by its address."""

    file_uri: str | None = None
    mime_type: str | None = None
    display_name: str | None = None


class VideoMetadata(_Value):
    """Which part of a video is meant. Offsets are such as "3.5s"."""

    end_offset: str | None = None
    fps: float | None = None
    start_offset: str | None = None
    content_layers: list[str] | None = None


class DocumentMetadata(_Value):
    """Which pages of a document are meant."""

    start_page: int | None = None
    end_page: int | None = None
    content_layers: list[str] | None = None


class SpreadsheetMetadata(_Value):
    """Which cells of a spreadsheet are meant."""

    visible_cells: str | None = None
    sheet_index: int | None = None
    content_layers: list[str] | None = None


class AudioMetadata(_Value):
    """Which part of a recording is meant. Offsets are such as "3.5s"."""

    start_offset: str | None = None
    end_offset: str | None = None


class FunctionResponsePart(_Value):
    """A medium in a function's output."""

    inline_data: FunctionResponseBlob | None = None
    file_data: FunctionResponseFileData | None = None
    media_processing: str | None = None
    media_resolution: PartMediaResolution | None = None
    video_metadata: VideoMetadata | None = None
    document_metadata: DocumentMetadata | None = None
    spreadsheet_metadata: SpreadsheetMetadata | None = None
    audio_metadata: AudioMetadata | None = None


class FunctionResponse(_Value):
    """The output of a function. A request has it; an answer does not."""

    will_continue: bool | None = None
    scheduling: str | None = None
    parts: list[FunctionResponsePart] | None = None
    id: str | None = None
    name: str | None = None
    response: Any = None


class Blob(_Value):
    """A picture or another medium, in base64."""

    data: str | None = None
    display_name: str | None = None
    mime_type: str | None = None


class ToolCall(_Value):
    """A call of a tool that the service runs itself."""

    id: str | None = None
    tool_type: str | None = None
    args: Any = None


class ToolResponse(_Value):
    """What a tool of the service has found."""

    id: str | None = None
    tool_type: str | None = None
    response: Any = None


class WordInfo(_Value):
    """A word of a transcription, and when it was spoken."""

    word: str | None = None
    start_offset: str | None = None
    end_offset: str | None = None


class Transcription(_Value):
    """What was spoken in an audio medium."""

    text: str | None = None
    finished: bool | None = None
    language_code: str | None = None
    speaker_label: str | None = None
    words: list[WordInfo] | None = None
    start_offset: str | None = None
    end_offset: str | None = None


class SpeechMetadata(_Value):
    """Who speaks, and how."""

    speaker: str | None = None
    style: str | None = None


class Part(_Value):
    """A piece of the answer: one of `text` (thinking, if `thought` is true), `function_call`,
    or what a tool of the service did. `thought_signature` belongs to its part and goes back
    with it."""

    media_resolution: PartMediaResolution | None = None
    code_execution_result: CodeExecutionResult | None = None
    executable_code: ExecutableCode | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    inline_data: Blob | None = None
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    video_metadata: VideoMetadata | None = None
    tool_call: ToolCall | None = None
    tool_response: ToolResponse | None = None
    part_metadata: Any = None
    audio_transcription: Transcription | None = None
    media_processing: str | None = None
    speech_metadata: SpeechMetadata | None = None
    document_metadata: DocumentMetadata | None = None
    spreadsheet_metadata: SpreadsheetMetadata | None = None
    audio_metadata: AudioMetadata | None = None


class Content(_Value):
    """The new parts of a candidate, never the whole so far."""

    parts: list[Part] | None = None
    role: str | None = None


class GoogleTypeDate(_Value):
    """A day, or a part of one."""

    day: int | None = None
    month: int | None = None
    year: int | None = None


class Citation(_Value):
    """A source of a part of the text. The indexes count bytes."""

    end_index: int | None = None
    license: str | None = None
    publication_date: GoogleTypeDate | None = None
    start_index: int | None = None
    title: str | None = None
    uri: str | None = None


class CitationSource(_Value):
    """The same, from Google AI."""

    start_index: int | None = None
    end_index: int | None = None
    uri: str | None = None
    license: str | None = None


class CitationMetadata(_Value):
    """The sources of the text."""

    citations: list[Citation] | None = None
    citation_sources: list[CitationSource] | None = None


class GroundingChunkImage(_Value):
    """A picture that a search has found."""

    source_uri: str | None = None
    image_uri: str | None = None
    title: str | None = None
    domain: str | None = None


class GroundingChunkMapsPlaceAnswerSourcesAuthorAttribution(_Value):
    """Who wrote a review."""

    display_name: str | None = None
    photo_uri: str | None = None
    uri: str | None = None


class GroundingChunkMapsPlaceAnswerSourcesReviewSnippet(_Value):
    """A part of a review."""

    author_attribution: GroundingChunkMapsPlaceAnswerSourcesAuthorAttribution | None = None
    flag_content_uri: str | None = None
    google_maps_uri: str | None = None
    relative_publish_time_description: str | None = None
    review: str | None = None
    review_id: str | None = None
    title: str | None = None


class GroundingChunkMapsPlaceAnswerSources(_Value):
    """What an answer about a place is based on."""

    review_snippet: list[GroundingChunkMapsPlaceAnswerSourcesReviewSnippet] | None = None
    flag_content_uri: str | None = None
    review_snippets: list[GroundingChunkMapsPlaceAnswerSourcesReviewSnippet] | None = None


class GroundingChunkMapsRoute(_Value):
    """A route on a map."""

    distance_meters: int | None = None
    duration: str | None = None
    encoded_polyline: str | None = None


class GroundingChunkMaps(_Value):
    """A place on a map."""

    place_answer_sources: GroundingChunkMapsPlaceAnswerSources | None = None
    place_id: str | None = None
    text: str | None = None
    title: str | None = None
    uri: str | None = None
    route: GroundingChunkMapsRoute | None = None


class RagChunkPageSpan(_Value):
    """From which page to which."""

    first_page: int | None = None
    last_page: int | None = None


class RagChunk(_Value):
    """A part of a document of a corpus."""

    page_span: RagChunkPageSpan | None = None
    text: str | None = None
    chunk_id: str | None = None
    file_id: str | None = None


class GroundingChunkStringList(_Value):
    """Several strings."""

    values: list[str] | None = None


class GroundingChunkCustomMetadata(_Value):
    """What the user has stored beside a document."""

    key: str | None = None
    numeric_value: float | None = None
    string_list_value: GroundingChunkStringList | None = None
    string_value: str | None = None


class GroundingChunkRetrievedContext(_Value):
    """A part of a document that a search in the user's own files has found."""

    document_name: str | None = None
    rag_chunk: RagChunk | None = None
    text: str | None = None
    title: str | None = None
    uri: str | None = None
    custom_metadata: list[GroundingChunkCustomMetadata] | None = None
    file_search_store: str | None = None
    page_number: int | None = None
    media_id: str | None = None


class GroundingChunkWeb(_Value):
    """A page that a search has found."""

    domain: str | None = None
    title: str | None = None
    uri: str | None = None


class GroundingChunk(_Value):
    """One thing that a search has found."""

    image: GroundingChunkImage | None = None
    maps: GroundingChunkMaps | None = None
    retrieved_context: GroundingChunkRetrievedContext | None = None
    web: GroundingChunkWeb | None = None


class Segment(_Value):
    """A part of the text. The indexes count bytes of UTF-8."""

    start_index: int | None = None
    end_index: int | None = None
    part_index: int | None = None
    text: str | None = None


class GroundingSupport(_Value):
    """Which of the things found a part of the text is based on."""

    confidence_scores: list[float] | None = None
    grounding_chunk_indices: list[int] | None = None
    segment: Segment | None = None
    rendered_parts: list[int] | None = None


class RetrievalMetadata(_Value):
    """How likely a search was to help, from 0 to 1."""

    google_search_dynamic_retrieval_score: float | None = None


class SearchEntryPoint(_Value):
    """HTML that Google asks to be shown beside an answer which a search has helped."""

    rendered_content: str | None = None
    sdk_blob: str | None = None


class GroundingMetadataSourceFlaggingUri(_Value):
    """Where a place or review may be reported."""

    flag_content_uri: str | None = None
    source_id: str | None = None


class GroundingMetadata(_Value):
    """What was searched for, and found. Often empty before the last chunk."""

    image_search_queries: list[str] | None = None
    grounding_chunks: list[GroundingChunk] | None = None
    grounding_supports: list[GroundingSupport] | None = None
    retrieval_metadata: RetrievalMetadata | None = None
    search_entry_point: SearchEntryPoint | None = None
    web_search_queries: list[str] | None = None
    google_maps_widget_context_token: str | None = None
    retrieval_queries: list[str] | None = None
    source_flagging_uris: list[GroundingMetadataSourceFlaggingUri] | None = None


class LogprobsResultCandidate(_Value):
    """A token, and the logarithm of its probability."""

    log_probability: float | None = None
    token: str | None = None
    token_id: int | None = None


class LogprobsResultTopCandidates(_Value):
    """The likeliest tokens of one step."""

    candidates: list[LogprobsResultCandidate] | None = None


class LogprobsResult(_Value):
    """The probabilities of the tokens."""

    chosen_candidates: list[LogprobsResultCandidate] | None = None
    top_candidates: list[LogprobsResultTopCandidates] | None = None
    log_probability_sum: float | None = None


class SafetyRating(_Value):
    """How likely the text is to do harm of one category."""

    blocked: bool | None = None
    category: str | None = None
    overwritten_threshold: str | None = None
    probability: str | None = None
    probability_score: float | None = None
    severity: str | None = None
    severity_score: float | None = None


class UrlMetadata(_Value):
    """An address that was read, and how that went."""

    retrieved_url: str | None = None
    url_retrieval_status: str | None = None


class UrlContextMetadata(_Value):
    """The addresses that the service has read."""

    url_metadata: list[UrlMetadata] | None = None


class GroundingPassageId(_Value):
    """A passage of those that the request has."""

    passage_id: str | None = None
    part_index: int | None = None


class SemanticRetrieverChunk(_Value):
    """A chunk of a corpus that the service keeps."""

    source: str | None = None
    chunk: str | None = None


class AttributionSourceId(_Value):
    """Where a source is from."""

    grounding_passage: GroundingPassageId | None = None
    semantic_retriever_chunk: SemanticRetrieverChunk | None = None


class GroundingAttribution(_Value):
    """A source that an answer of the model AQA is based on."""

    source_id: AttributionSourceId | None = None
    content: Content | None = None


class Candidate(_Value):
    """One of the answers that were asked for; `index` 0 where it has none. The last
    `finish_reason` counts: a round of a tool of the service ends with one too."""

    content: Content | None = None
    citation_metadata: CitationMetadata | None = None
    finish_message: str | None = None
    token_count: int | None = None
    finish_reason: str | None = None
    grounding_metadata: GroundingMetadata | None = None
    avg_logprobs: float | None = None
    index: int | None = None
    logprobs_result: LogprobsResult | None = None
    safety_ratings: list[SafetyRating] | None = None
    url_context_metadata: UrlContextMetadata | None = None
    continuation_token: str | None = None
    grounding_attributions: list[GroundingAttribution] | None = None


class GenerateContentResponsePromptFeedback(_Value):
    """What a filter says of the prompt. With a `block_reason` there is no answer."""

    block_reason: str | None = None
    block_reason_message: str | None = None
    safety_ratings: list[SafetyRating] | None = None


class ModalityTokenCount(_Value):
    """The tokens of one kind: TEXT, IMAGE, AUDIO, ..."""

    modality: str | None = None
    token_count: int | None = None


class GenerateContentResponseUsageMetadata(_Value):
    """Tokens used so far. A later report replaces an earlier one as a whole."""

    cache_tokens_details: list[ModalityTokenCount] | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    candidates_tokens_details: list[ModalityTokenCount] | None = None
    prompt_token_count: int | None = None
    prompt_tokens_details: list[ModalityTokenCount] | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    tool_use_prompt_tokens_details: list[ModalityTokenCount] | None = None
    total_token_count: int | None = None
    traffic_type: str | None = None
    service_tier: str | None = None


class ModelStatus(_Value):
    """Whether the model is a preview, or is retired, and when."""

    message: str | None = None
    model_stage: str | None = None
    retirement_time: str | None = None


class GenerateContentResponse(Event, tag=False, rename="camel"):
    """One chunk of an answer. `error` stands in place of everything else: the request failed.

    Only the candidate with the index 0 is the answer.
    """

    candidates: list[Candidate] | None = None
    create_time: str | None = None
    model_version: str | None = None
    prompt_feedback: GenerateContentResponsePromptFeedback | None = None
    response_id: str | None = None
    usage_metadata: GenerateContentResponseUsageMetadata | None = None
    model_status: ModelStatus | None = None
    error: Any = None


EVENTS: tuple[type[Event], ...] = (GenerateContentResponse,)
"""Every event class of this API."""

GenerateContentResponse.type = "GenerateContentResponse"
