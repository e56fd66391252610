"""Repairs of a dataset: what each is called, what it mends, and which are safe. No training
library."""

from __future__ import annotations

from dataclasses import dataclass

from engine.doctor.finding_kinds import SEVERAL_LISTS

# A split makes two datasets: the rows to train on, and every EVERYth row to measure with.
SPLIT, TRAIN_PART, EVALUATION_PART = "split", "split_train", "split_evaluation"
EVERY = 10
# Makes a dataset of each list of a file.
SPLIT_LISTS = "split_lists"
CHATS = ("messages", "conversations")


@dataclass(frozen=True)
class Repair:
    """One repair.

    mends: kinds of findings that it is for (engine.doctor.examine), or "problems" for rows that
    cannot be read, "names" for columns of other names, "long" for rows over a limit.
    formats: those that it takes, none for all.
    makes: the format that comes of it, where it is another.
    """

    slug: str
    title: str
    help: str
    mends: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    makes: str = ""


REPAIRS = {
    repair.slug: repair
    for repair in (
        Repair(
            "drop_bad",
            "Leave out bad rows",
            "Rows that cannot be read are gone; the others stay.",
            ("problems",),
        ),
        Repair(
            SPLIT_LISTS,
            "Make a dataset of each list",
            "Such as one to train on and one to measure with; each is then read by its own "
            "columns.",
            (SEVERAL_LISTS,),
        ),
        Repair(
            "merge_turns",
            "Merge turns of one speaker",
            "Two turns of one role in a row become one, with a blank line between them.",
            ("two_turns",),
            CHATS,
        ),
        Repair(
            "move_system",
            "Move system turns to the front",
            "What stands in them later is added to the system prompt, with a blank line between.",
            ("system_later",),
            CHATS,
        ),
        Repair(
            "drop_last_question",
            "Leave out a last question without an answer",
            "Conversations then end with the last answer; one that has no answer stays as it is.",
            ("ends_with_user",),
            CHATS,
        ),
        Repair(
            "drop_opening_answer",
            "Leave out an answer that nobody asked for",
            "Conversations then begin with the first question; what the assistant said before it "
            "is gone.",
            ("begins_with_assistant",),
            CHATS,
        ),
        Repair(
            "keep_text",
            "Keep the text alone",
            "Columns and parts of pictures, sound or video are gone, and marks such as <image> "
            "where they stood.",
            ("media", "media_marks"),
        ),
        Repair(
            "text_to_chats",
            "Make conversations of texts",
            "Texts of Human: and Assistant:, or of similar names, become turns; other texts are "
            "left out.",
            ("transcript_text",),
            ("text",),
            "messages",
        ),
        Repair(
            "strip_separators",
            "Take out separators",
            "Marks such as ### or -> behind prompts, and ### or END behind completions, are cut off.",
            ("separators",),
            ("prompt-completion",),
        ),
        Repair(
            "drop_duplicates",
            "Leave out duplicates",
            "Of rows that are the same the first one stays.",
            ("duplicate",),
        ),
        Repair(
            "strip_template",
            "Take out control tokens",
            "Control tokens such as <|im_start|> or [INST] are cut out.",
            ("template_tokens",),
        ),
        Repair(
            "mask_secrets",
            "Mask keys and passwords",
            "Keys become [key], passwords [password].",
            ("secret",),
        ),
        Repair(
            "mask_addresses",
            "Mask e-mail addresses",
            "E-mail addresses become [e-mail].",
            ("email",),
        ),
        Repair(
            "mend_encoding",
            "Repair the encoding",
            "Text that was read in the wrong encoding is read correctly.",
            ("damaged",),
        ),
        Repair(
            "drop_lost",
            "Leave out rows that lost characters",
            "What was lost cannot be got back.",
            ("lost",),
        ),
        Repair(
            "rename_columns",
            "Rename the columns",
            "Columns get the names that the format gives them.",
            ("names",),
        ),
        Repair(
            "drop_long",
            "Leave out long rows",
            "Rows over the limit are gone; the others stay.",
            ("long",),
        ),
        Repair(
            "cut_long",
            "Cut long rows",
            "Conversations lose their last exchanges, texts their end, until they keep to the "
            "limit; a row that cannot is left out.",
            ("long",),
            (*CHATS, "text"),
        ),
        Repair(
            SPLIT,
            "Split off an evaluation set",
            "Every tenth row becomes a dataset of its own, to measure with.",
        ),
        Repair(
            "pairs_to_examples",
            "Use the better answers as examples",
            "For SFT and LoRA; drops the worse answers.",
            (),
            ("preference",),
            "messages",
        ),
        Repair(
            "pairs_to_ratings",
            "Make rated answers of the pairs",
            "For KTO: a pair becomes a good and a bad answer.",
            (),
            ("preference",),
            "kto",
        ),
        Repair(
            "answers_to_prompts",
            "Keep only the prompts",
            "For PPO with a reward model; drops the answers.",
            (),
            (
                "messages",
                "conversations",
                "prompt-completion",
                "alpaca",
                "question-answer",
                "preference",
            ),
            "prompt-only",
        ),
    )
}
LONG = tuple(repair.slug for repair in REPAIRS.values() if "long" in repair.mends)

# Repairs that lose nothing somebody may want to keep: each makes a bad row good or takes out plain
# damage. In this order, since a mended row may turn out to be one that is there already.
SAFE = (
    "mend_encoding",
    "strip_template",
    "strip_separators",
    "move_system",
    "merge_turns",
    "drop_last_question",
    "mask_secrets",
    "drop_duplicates",
)
# Versions that are made of several repairs at once, and of rows that somebody edited or set aside.
MEND_SAFE, APPLY_CHANGES = "mend_safe", "apply_changes"
COMBINED_TITLES = {
    MEND_SAFE: "Make all safe repairs",
    APPLY_CHANGES: "Apply changed rows",
}


def safe_repairs(format: str) -> list[Repair]:
    """Those of SAFE that rows of this format can need."""
    return [
        REPAIRS[slug]
        for slug in SAFE
        if not REPAIRS[slug].formats or format in REPAIRS[slug].formats
    ]


def offered(format: str, kinds: set[str]) -> list[Repair]:
    """Repairs that make sense for a dataset of this format in which these kinds were found."""
    return [repair for repair in REPAIRS.values() if _is_offered(repair, format, kinds)]


def _is_offered(repair: Repair, format: str, kinds: set[str]) -> bool:
    if repair.formats and format not in repair.formats:
        return False
    if repair.mends:
        return any(kind in kinds for kind in repair.mends)

    # Those that mend nothing make another format or a part of the rows.
    return bool(repair.makes) or repair.slug == SPLIT
