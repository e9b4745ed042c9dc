"""How code calls, their outputs and the notices of the remaining budget are written in a solution.

One code call of the style ``tool_call``, everything between the lines literal::

    <tool_call>
    print(6 * 7)
    </tool_call>
    ```output
    42
    ```
    ```system
    Remaining code executions: 1. ...
    ```

The wording of the two notices is data: it is learned from the training records, so that
evaluation says exactly what training said. Nothing here parses a solution; see ``spans``.
"""

from dataclasses import dataclass

from longrun.errors import ConfigError

BUDGET_PATTERN = r"Remaining code executions: (\d+)"
"""Regular expression of the number of executions left, inside a notice."""
REMAINING_NOTICE = (
    "Remaining code executions: {remaining}. Spend them with care: when none is left you can no"
    " longer run code, but you may go on solving the problem without it."
)
EXHAUSTED_NOTICE = (
    "No code executions are left. Code will not be run any more; finish the solution by reasoning."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeStyle:
    """The literal texts around code calls; every one ends where the next piece begins."""

    begin: str
    end: str
    """Includes the newline, so that what follows starts a line."""
    output_begin: str = "```output\n"
    output_end: str = "```\n"
    notice_begin: str = "```system\n"
    notice_end: str = "\n```\n"
    remaining_notice: str = REMAINING_NOTICE
    """Text between the fences with ``{remaining}`` where the number stands."""
    exhausted_notice: str = EXHAUSTED_NOTICE
    """Text between the fences when no execution is left."""

    @classmethod
    def named(cls, name: str) -> "CodeStyle":
        """Return the style ``tool_call``, ``fenced`` or ``llm_code``.

        Raises:
            ConfigError: there is no such style.
        """
        if name not in _STYLES:
            raise ConfigError(f"code_style {name!r} is unknown; known: {', '.join(_STYLES)}")
        return _STYLES[name]

    def format_output(self, text: str) -> str:
        """Fence what a program printed, as it is fed back to the model.

        >>> print(CodeStyle.named("tool_call").format_output("42"), end="")
        ```output
        42
        ```
        """
        newline = "" if not text or text.endswith("\n") else "\n"
        return f"{self.output_begin}{text}{newline}{self.output_end}"

    def format_notice(self, remaining: int) -> str:
        """Fence the notice that follows an output when ``remaining`` executions are left."""
        text = self.exhausted_notice
        if remaining > 0:
            text = self.remaining_notice.replace("{remaining}", str(remaining))
        return f"{self.notice_begin}{text}{self.notice_end}"


_STYLES = {
    "tool_call": CodeStyle(begin="<tool_call>\n", end="</tool_call>\n"),
    "fenced": CodeStyle(begin="```python\n", end="```\n"),
    "llm_code": CodeStyle(
        begin="<llm-code>\n",
        end="</llm-code>\n",
        output_begin="<llm-code-output>\n",
        output_end="</llm-code-output>\n",
    ),
}
