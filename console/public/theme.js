// Sets the theme before anything is painted; without a choice the system decides.
try {
  const theme = localStorage.getItem('answerback.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system decides.
}
