"""The playground in a real browser, on a server that answers what each test says."""

from typing import Any

from tests.serve.page.browser import Watch, alternative, continue_text, shows, token, tokens, visit, window
from tests.serve.page.scripted import EOS, ScriptedServer, Word

FAILED = ("Failed to load resource",)


def test_text_streams_shaded_by_probability_and_stop_keeps_it(page: Any, server: ScriptedServer) -> None:
    server.script.hold.clear()
    server.script.words = lambda prompt: [Word(" sure", 0.99), Word(" rare", 0.001)]
    page.fill("#draft", "once upon")
    page.click("#go")
    page.wait_for_selector("#text .token.model")
    assert tokens(page) == ["<s>", "once", " upon", " sure"]
    assert page.is_visible("#stop")
    assert not page.is_visible("#go")
    assert page.get_attribute("#text", "aria-busy") == "true"
    page.click("#stop")
    page.wait_for_selector("#status:has-text('Stopped')")
    assert tokens(page) == ["<s>", "once", " upon", " sure"]
    server.script.words = lambda prompt: [Word(" rare", 0.001)]
    server.script.hold.set()
    page.click("#go")
    page.wait_for_selector("#status:has-text('1 token')")
    assert tokens(page) == ["<s>", "once", " upon", " sure", " rare"]
    shades = [
        float(one.evaluate("one => one.style.getPropertyValue('--s')")) for one in page.locator("#text .token.model").all()
    ]
    assert shades[0] < 0.05 < 0.9 < shades[1]
    assert server.script.requests[0]["prompt"] == server.encode("once upon")
    assert page.locator("#curve svg").get_attribute("aria-label").startswith("Surprisal of 4 tokens")


def test_hover_shows_alternatives_and_leaving_hides_them(page: Any) -> None:
    continue_text(page, "a b")
    token(page, " two").hover()
    page.wait_for_selector("#alternatives:not([hidden])")
    rows = page.locator("#alternatives button.row").all()
    assert [row.locator(".name").text_content() for row in rows] == ["·two", "·or", "·else"]
    assert [row.locator(".value").text_content() for row in rows] == ["50 %", "30 %", "10 %"]
    page.mouse.move(2, 2)
    page.wait_for_selector("#alternatives", state="hidden")


def test_tap_shows_alternatives_from_below(browser: Any, server: ScriptedServer) -> None:
    with window(browser, server.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as (page, watch):
        visit(page, watch, server.url)
        continue_text(page, "a b")
        token(page, " two").tap()
        page.wait_for_selector("#alternatives:not([hidden])")
        box = page.locator("#alternatives").bounding_box()
        assert (box["x"], box["width"], round(box["y"] + box["height"])) == (0, 360, 740)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.touchscreen.tap(180, 30)
        page.wait_for_selector("#alternatives", state="hidden")
        watch.check()


def test_a_click_on_an_alternative_makes_a_branch_and_back_returns(page: Any, server: ScriptedServer) -> None:
    continue_text(page, "a b")
    server.script.words = lambda prompt: [Word(" new"), Word(EOS)]
    token(page, " one").click()
    alternative(page, "·or").click()
    page.wait_for_selector("#text .token:has-text('new')")
    page.wait_for_selector("#status:has-text('token')")
    assert tokens(page) == ["<s>", "a", " b", " or", " new", EOS]
    assert server.script.requests[1]["prompt"] == server.encode("a b or")
    assert server.script.requests[1]["echo"] is False
    branches = page.locator("#branches button.go")
    assert [text.rsplit(" ", 1)[0] for text in branches.all_text_contents()] == ["a b", "one two", "or new"]
    page.click("#back")
    page.wait_for_selector("#text .token:has-text('two')")
    assert tokens(page) == ["<s>", "a", " b", " one", " two", EOS]
    # A branch that is there already is shown, not asked for again.
    token(page, " one").click()
    assert alternative(page, "·or").evaluate("one => one.classList.contains('explored')")
    alternative(page, "·or").click()
    page.wait_for_selector("#text .token:has-text('new')")
    assert len(server.script.requests) == 2


def test_the_end_of_a_text_has_alternatives_too(page: Any, server: ScriptedServer) -> None:
    continue_text(page, "a")
    server.script.words = lambda prompt: [Word(" more")]
    token(page, EOS).click()
    alternative(page, "·else").click()
    page.wait_for_selector("#text .token:has-text('more')")
    assert tokens(page) == ["<s>", "a", " one", " two", " else", " more"]
    # And a text may be ended anywhere.
    page.wait_for_selector("#status:has-text('token')")
    server.script.words = lambda prompt: [Word(" so", 0.5, ((EOS, 0.4),))]
    page.click("#go")
    page.wait_for_selector("#text .token:has-text('so')")
    page.wait_for_selector("#status:has-text('token')")
    asked = len(server.script.requests)
    token(page, " so").click()
    alternative(page, EOS).click()
    page.wait_for_selector("#text .token.end")
    assert tokens(page) == ["<s>", "a", " one", " two", " else", " more", EOS]
    assert len(server.script.requests) == asked


def test_reload_keeps_the_tree(page: Any, server: ScriptedServer) -> None:
    continue_text(page, "a b")
    token(page, " one").click()
    alternative(page, "·or").click()
    page.wait_for_selector("#text .token:has-text('or')")
    page.wait_for_selector("#status:has-text('token')")
    before = (tokens(page), page.locator("#branches button.go").all_text_contents())
    page.reload()
    page.wait_for_selector("#text .token:has-text('or')")
    assert (tokens(page), page.locator("#branches button.go").all_text_contents()) == before
    token(page, " or").click()
    assert page.locator("#alternatives button.row").count() == 3
    page.keyboard.press("Escape")
    page.click("#back")
    page.wait_for_selector("#text .token:has-text('one')")


def test_a_deleted_branch_comes_back_with_undo(page: Any) -> None:
    continue_text(page, "a b")
    page.click("#branches button.remove")
    page.wait_for_selector("#draft:visible")
    page.click("#problem button:has-text('Undo')")
    page.wait_for_selector("#text .token:has-text('two')")


def test_an_edited_text_branches_off_where_it_differs(page: Any, server: ScriptedServer) -> None:
    continue_text(page, "a b c")
    page.click("#edit")
    assert page.input_value("#draft") == "a b c one two"
    continue_text(page, "a b d")
    page.locator("#branches button.go").nth(2).wait_for()  # The status is the first one's until then.
    texts = [text.rsplit(" ", 1)[0] for text in page.locator("#branches button.go").all_text_contents()]
    assert texts == ["a b", "c one two", "d one two"]


def test_tab_enters_a_text_that_has_grown_at_its_last_token(page: Any, server: ScriptedServer) -> None:
    server.script.hold.clear()
    page.fill("#draft", "a b")
    page.click("#go")
    page.wait_for_selector("#text .token:has-text('one')")  # Drawn before the rest comes.
    server.script.hold.set()
    page.wait_for_selector("#text .token:has-text('</s>')")
    page.wait_for_selector("#go:focus")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "</s>"


def test_everything_by_keyboard(page: Any, server: ScriptedServer) -> None:
    page.wait_for_selector("#go:not([disabled])")
    page.focus("#draft")
    page.keyboard.type("a b")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#status:has-text('token')")
    page.wait_for_selector("#go:focus")
    page.keyboard.press("Shift+Tab")  # Back into the text, at its last token.
    page.wait_for_selector("#alternatives:not([hidden])")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == " one"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "one, 50 %, in the text"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == " one"
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")  # On to the buttons, and nothing stays open over them.
    page.wait_for_selector("#alternatives", state="hidden")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#text .token:has-text('or')")
    page.wait_for_selector("#status:has-text('token')")
    assert server.script.requests[1]["prompt"] == server.encode("a b or")


def test_a_dead_server_is_said_and_noticed_when_it_is_back(page: Any, watch: Watch, server: ScriptedServer) -> None:
    watch.allowed = FAILED
    continue_text(page, "a b")
    server.stop()
    try:
        page.click("#go")
        page.wait_for_selector("#problem:has-text('The server does not answer.')")
        assert page.get_attribute("#problem", "role") == "alert"
        assert tokens(page)[-1] == EOS
    finally:
        server.start()
    page.wait_for_selector("#problem", state="hidden")
    page.click("#go")
    page.wait_for_selector("#status:has-text('token')")


def test_what_a_server_refuses_is_said_in_its_words(page: Any, watch: Watch, server: ScriptedServer) -> None:
    watch.allowed = FAILED
    page.fill("#draft", "a b")
    for failure, says in [
        (
            (400, {"error": {"cause": "the prompt is too long", "remedy": "shorten it"}}, {}),
            "The prompt is too long. Shorten it.",
        ),
        ((429, {"error": {"message": "the queue is full"}}, {"Retry-After": "7"}), "The queue is full. Try again in 7 s."),
        ((500, {"error": {"message": "<b>out of memory</b>"}}, {}), "<b>out of memory</b>"),
        ((401, {"error": {"message": "no key"}}, {}), "This server needs a key."),
    ]:
        server.script.failure = failure
        page.click("#go")
        page.wait_for_selector(f'#problem:has-text("{says}")')
        assert page.input_value("#draft") == "a b"
    server.script.failure = None
    page.fill("#problem input", "secret")
    page.click("#problem button")
    page.wait_for_selector("#problem", state="hidden")
    page.click("#go")
    page.wait_for_selector("#status:has-text('token')")
    assert server.script.keys[-1] == "Bearer secret"


def test_a_loading_model_is_waited_for(page: Any, watch: Watch, server: ScriptedServer) -> None:
    watch.allowed = FAILED
    server.script.loading = True
    page.reload()
    page.wait_for_selector("#problem:has-text('The model is loading.')")
    assert page.is_disabled("#go")
    server.script.loading = False
    page.wait_for_selector("#go:not([disabled])")


def test_an_answer_that_breaks_off_is_said_and_kept(page: Any, server: ScriptedServer) -> None:
    server.script.breaks = True
    page.fill("#draft", "a")
    page.click("#go")
    page.wait_for_selector("#problem:has-text('half-way')")
    assert tokens(page) == ["<s>", "a", " one"]
    server.script.breaks = False
    page.click("#problem button:has-text('Try again')")
    page.wait_for_selector("#text .token:has-text('two')")
    assert tokens(page) == ["<s>", "a", " one", " one", " two", EOS]


def test_hostile_text_stays_text(page: Any, server: ScriptedServer) -> None:
    hostile = [
        "<img src=x onerror=document.title='hit'>",
        "</script><script>document.title='hit'</script>",
        "\u202egnp\x1b[2J\0",
    ]
    server.script.words = lambda prompt: [Word(text, 0.5, ((f"{text}!", 0.2),)) for text in hostile]
    continue_text(page, "<b>bold</b>")
    assert tokens(page) == ["<s>", "<b>bold</b>", *hostile[:2], "U+202Egnp␛[2J␀"]
    token(page, "onerror").click()
    page.wait_for_selector("#alternatives:not([hidden])")
    page.click("#share")
    page.wait_for_selector("#commands[open]")
    assert page.locator("img, b, #text script, #branches script").count() == 0
    assert page.title() == "olc playground"
    assert "no argument of a command can hold" in page.locator("#commands").text_content()


def test_sliders_show_what_they_cut_on_the_distribution(page: Any, server: ScriptedServer) -> None:
    server.script.words = lambda prompt: [Word(" one", 0.6, ((" or", 0.2), (" else", 0.1)))]
    continue_text(page, "a b")
    with page.expect_response(lambda response: '"logprobs":100' in (response.request.post_data or "")):
        token(page, " one").click()
    sampled = page.locator("#distribution .row .sampled")
    assert server.encode("a b") in [look["prompt"] for look in server.script.looks]
    page.fill("#set-temperature-number", "1")
    page.fill("#set-topP-number", "1")
    page.keyboard.press("Tab")
    shows(sampled, ["60 %", "20 %", "10 %", "10 %"])
    page.fill("#set-topP", "0.75")
    shows(sampled, ["75 %", "25 %", "cut: top-p", "cut: top-p"])
    page.fill("#set-temperature", "0")
    shows(sampled, ["100 %", *["0 %"] * 3])
    page.reload()
    page.wait_for_selector("#text .token")
    assert page.input_value("#set-topP-number") == "0.75"


def test_the_distribution_is_what_the_server_made_of_it_step_by_step(page: Any, server: ScriptedServer) -> None:
    made = {" one": (0.6, 0.7, 0.9, None), " or": (0.3, 0.2, 0.1, None), " else": (0.1, 0.05, 0.0, "top-p")}
    banned = {" one": (0.0, 0.0, 0.0, "never"), " or": (0.75, 0.875, 1.0, None), " rare": (0.001, 0.0004, 0.25, None)}
    others = ((" one", 0.6), (" or", 0.3), (" else", 0.09))
    server.script.words = lambda prompt: [
        Word(" one", 0.6, ((" or", 0.3), (" else", 0.1)), made),
        Word(" rare", 0.001, others, banned, ("allowed", "repetition penalty", "temperature", "top-p")),
        Word(" one", 0.6, ((" or", 0.3),), {" one": (0.6, None, 1.0, None), " or": (0.3, None, 0.0, None)}, ("allowed",)),
    ]
    continue_text(page, "a b")
    assert server.script.requests[0]["olc"] == {"tokens": True, "trace": True}
    distribution = page.locator("#distribution")
    figures = distribution.locator(".row :is(.value, .sampled)")
    token(page, " one").click()
    shows(distribution.locator(".columns span"), ["model", "tempered", "drawn"])
    shows(figures, ["60 %", "70 %", "90 %", "30 %", "20 %", "10 %", "10 %", "5.0 %", "cut: top-p"])
    assert "and was drawn with 90 %" in distribution.locator(".subject").text_content()
    # Penalties have a column where there are any; the token taken is there, however unlikely the model finds it; and what no
    # candidate has is known.
    token(page, " rare").click()
    shows(distribution.locator(".columns span"), ["model", "penalized", "tempered", "drawn"])
    rows = distribution.locator(".row")
    shows(rows.nth(0).locator(".value, .sampled"), ["60 %", "0 %", "0 %", "never"])
    shows(rows.nth(2).locator(".value, .sampled"), ["9.0 %", "", "", ""])
    shows(rows.nth(3).locator(".value, .sampled"), ["0.10 %", "0.10 %", "0.04 %", "25 %"])
    # Greedy: no temperature.
    page.locator("#text .token.model").last.click()
    shows(distribution.locator(".columns span"), ["model", "drawn"])
    # What the sliders are moved to is the page's to say, until they are back.
    token(page, " one").click()
    page.fill("#set-temperature-number", "1")
    page.fill("#set-topP-number", "1")
    page.keyboard.press("Tab")
    shows(distribution.locator(".columns span"), ["model", "sampled"])
    assert "drawn with other settings" in distribution.text_content()
    page.fill("#set-temperature-number", "0.8")
    page.fill("#set-topP-number", "0.95")
    page.keyboard.press("Tab")
    shows(distribution.locator(".columns span"), ["model", "tempered", "drawn"])


def test_settings_are_sent_and_shown_as_commands(page: Any, server: ScriptedServer) -> None:
    settings = {
        "temperature-number": "0.5",
        "topK-number": "40",
        "topP-number": "1",
        "seed": "7",
        "maxTokens": "9",
        "stop": "\\n",
    }
    for name, value in settings.items():
        page.fill(f"#set-{name}", value)
    page.keyboard.press("Tab")
    continue_text(page, "it's")
    sent = {"model": "scripted", "max_tokens": 9, "temperature": 0.5, "top_k": 40, "seed": 7, "stop": ["\n"], "logprobs": 10}
    assert server.script.requests[0].items() >= sent.items()
    page.click("#share")
    page.wait_for_selector("#commands[open]")
    shell, curl, json = page.locator("#commands code").all_text_contents()
    options = "--dtype float32 -n 9 --temperature 0.5 --top-k 40 --seed 7 --stop '\n'"
    assert shell == f"olc complete -m scripted {options} -- 'it'\\''s one two'"
    assert curl.startswith(f"curl {server.url}v1/completions -H 'Content-Type: application/json' -d '{{\n")
    assert '"prompt": "it\'s one two"' in json


def test_the_theme_is_chosen_and_kept(page: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-label") == "Theme: dark"
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark
