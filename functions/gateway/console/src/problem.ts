/**
 * Problem is the error of a failed request. Its message is the problem document of the server (RFC 9457), if there
 * is one.
 */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
  ) {
    super(message)
  }
}

/** problemOf returns the problem in an error response. */
export function problemOf(status: number, body: string, retryAfter: string | null): Problem {
  let title = '', detail = '', type = ''
  try {
    const document = JSON.parse(body)
    if (typeof document?.title === 'string') ({ title, detail = '', type = '' } = document)
  } catch {
    // A proxy in front of the functions sent the response. The message has only the status.
  }
  const seconds = Number(retryAfter ?? '')
  const parts = [sentence(title || `The server responded with status ${status}`)]
  if (detail) parts.push(sentence(detail))
  if (seconds > 0) parts.push(`Try again in ${waiting(seconds)}.`)
  return new Problem(status, type.replace('urn:strongroom:problem:', ''), parts.join(' '))
}

/** unreachable returns the problem for a request without a response. */
export function unreachable(): Problem {
  return new Problem(0, 'unreachable', 'Strongroom cannot be reached. Check your connection and try again.')
}

/** explain returns the message for any thrown value. */
export function explain(error: unknown): string {
  return error instanceof Problem ? error.message : `Something went wrong on this page: ${String(error)}`
}

function sentence(text: string): string {
  const whole = text[0]!.toUpperCase() + text.slice(1)
  return /[.!?]$/.test(whole) ? whole : whole + '.'
}

function waiting(seconds: number): string {
  if (seconds < 90) return seconds === 1 ? 'a second' : `${seconds} seconds`
  return `${Math.ceil(seconds / 60)} minutes`
}
