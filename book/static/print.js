// On paper the page is light, whatever the screen is.
let screen_theme;
addEventListener("beforeprint", () => {
  screen_theme = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
});
addEventListener("afterprint", () => { document.documentElement.dataset.theme = screen_theme; });
