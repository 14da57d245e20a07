// The contents of a page, opened by their button, close when one of them is chosen.
addEventListener("click", event => {
  const link = event.target.closest("dialog a[href*='#']");
  if (link) link.closest("dialog").close();
});
