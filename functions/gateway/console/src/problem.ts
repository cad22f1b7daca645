/** What went wrong, in the server's words where it has any (RFC 9457). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
  ) {
    super(message)
  }
}

/** problemOf reads what a server answered that did not do as it was asked. */
export function problemOf(status: number, body: string, retryAfter: string | null): Problem {
  let title = '', detail = '', type = ''
  try {
    const document = JSON.parse(body)
    if (typeof document?.title === 'string') ({ title, detail = '', type = '' } = document)
  } catch {
    // Something between here and the functions answered: it is described by its status.
  }
  const seconds = Number(retryAfter ?? '')
  const parts = [sentence(title || `The server answered with status ${status}`)]
  if (detail) parts.push(sentence(detail))
  if (seconds > 0) parts.push(`Try again in ${waiting(seconds)}.`)
  return new Problem(status, type.replace('urn:strongroom:problem:', ''), parts.join(' '))
}

/** unreachable is the problem of a request that got no answer. */
export function unreachable(): Problem {
  return new Problem(0, 'unreachable', 'Strongroom can not be reached. Check the connection and try again.')
}

/** explain says what went wrong, of anything thrown. */
export function explain(error: unknown): string {
  return error instanceof Problem ? error.message : `Something went wrong in this page: ${String(error)}`
}

function sentence(text: string): string {
  const whole = text[0]!.toUpperCase() + text.slice(1)
  return /[.!?]$/.test(whole) ? whole : whole + '.'
}

function waiting(seconds: number): string {
  if (seconds < 90) return seconds === 1 ? 'a second' : `${seconds} seconds`
  return `${Math.ceil(seconds / 60)} minutes`
}
