// Light or dark: as the system says, or as chosen here.

import { byId, h } from "./dom.js";

const KEPT = "olc-playground-theme";
const CHOICES = ["system", "light", "dark"];

/** Applies the theme that was chosen and lets the button change it. */
export function themeButton() {
  const button = byId("theme");
  let choice = CHOICES.includes(localStorage.getItem(KEPT)) ? localStorage.getItem(KEPT) : "system";
  const show = () => {
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    button.setAttribute("aria-label", `Theme: ${choice}`);
    button.replaceChildren(h("span", { class: "half" }, "◐ "), h("span", { class: "choice" }, choice));
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    localStorage.setItem(KEPT, choice);
    show();
  });
  show();
}
